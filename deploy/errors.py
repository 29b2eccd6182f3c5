"""What a caller can mend, and no other try: said as it stands, wherever the request came from."""

from src.media.errors import InputError
from src.serving.eta import TooLongError
from src.serving.validation import ValuesError

INPUT_FAULTS = (InputError, ValuesError, TooLongError)
