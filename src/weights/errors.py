"""Errors of downloads and of weights on disk."""


class WeightsError(RuntimeError):
    """Weights are missing and could not be fetched. The message is one sentence for the operator."""


class SourceError(WeightsError):
    """One source could not provide a bundle; the next source is tried."""


class CorruptDownloadError(SourceError):
    """A source delivered data that is truncated, malicious, or of another hash than expected."""


class CancelledError(SourceError):
    """The download was cancelled because another one failed or the user interrupted."""


class SpaceError(WeightsError):
    """The volume is too small. No other source is tried."""
