"""Errors of transfers."""


class StorageError(RuntimeError):
    """The operator's S3 store is unreachable or refused a request; the caller is not at fault."""


class DownloadTimeoutError(Exception):
    """A download passed its deadline; converted to an InputError before it leaves `src.storage`."""
