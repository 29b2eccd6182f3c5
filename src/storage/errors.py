"""What can go wrong between a request's files and this machine."""


class StorageError(RuntimeError):
    """A store of the operator's is out of reach or refuses: not the caller's fault. One sentence."""


class DownloadTooLongError(Exception):
    """The time for a download is over; never leaves the download."""


class TransientError(Exception):
    """A network fault that may pass; never leaves the download."""
