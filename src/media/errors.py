"""The one exception that is meant for the person who sent the request."""


class InputError(ValueError):
    """An input cannot be used. The message names the input, the offending value and what is allowed."""
