"""Keys of objects in a bucket. Imports nothing: boto3 is not part of every installation."""

SCHEME = "s3://"
MAX_KEY_BYTES = 1024


def is_valid_key(text: str) -> bool:
    """Whether requests may use this key: printable, without empty, `.` or `..` segments."""
    return 0 < len(text) <= MAX_KEY_BYTES and text.isprintable() and not {"", ".", ".."} & set(text.split("/"))
