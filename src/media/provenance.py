"""What a finished file says of itself: that nobody filmed it."""

# IPTC's term for media that a trained model made.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def provenance(model: str, seed: int) -> str:
    """The comment in the MP4, readable by people and, pair by pair, by programs."""
    return f"synthetic=true; generator=MultiTalk; model={model}; seed={seed}; digitalsourcetype={SOURCE_TYPE}"
