"""The provenance tag of a generated file."""

# IPTC's term for media made by a trained model.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def provenance(model: str, seed: int) -> str:
    """The comment in the MP4: key=value pairs for people and programs."""
    return f"synthetic=true; generator=MultiTalk; model={model}; seed={seed}; digitalsourcetype={SOURCE_TYPE}"
