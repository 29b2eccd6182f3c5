"""What a caller can mend, and no other try: said as it stands, wherever the request came from."""

from src.media.errors import InputError
from src.serving.forecast import TooLongError
from src.serving.values import ValuesError

INPUT_FAULTS = (InputError, ValuesError, TooLongError)
