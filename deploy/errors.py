"""What a caller can mend, and no other try: said as it stands, wherever the request came from."""

from src.errors import InputError
from src.serving.eta import TimeLimitError
from src.serving.validation import ValidationError

CLIENT_ERRORS = (InputError, ValidationError, TimeLimitError)
