"""Errors that the caller can correct. Their messages are returned as they are; retrying does not help."""

from src.errors import InputError
from src.serving.eta import TimeLimitError

CLIENT_ERRORS = (InputError, TimeLimitError)
