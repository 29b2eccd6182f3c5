"""What can go wrong between a server and a folder of weights."""


class WeightsError(RuntimeError):
    """Weights are not there and could not be fetched; the message is one sentence for the operator."""


class SourceError(WeightsError):
    """One source could not give a bundle; another may."""


class CorruptError(SourceError):
    """What a source gave is not what it should be: cut short, changed, hostile or of another hash."""


class StoppedError(SourceError):
    """The download was told to stop, because another one failed or the user interrupted."""


class SpaceError(WeightsError):
    """The volume is too small; no other source helps."""
