"""MultiTalk: one picture, one or two voices and a sentence become a video of people talking."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wan.multitalk import MultiTalkPipeline

__all__ = ["MultiTalkPipeline"]


def __getattr__(name: str) -> Any:
    """Import the pipeline, and with it torch, only when somebody asks for it."""
    if name != "MultiTalkPipeline":
        raise AttributeError(f"module 'wan' has no attribute {name!r}")
    from wan.multitalk import MultiTalkPipeline

    return MultiTalkPipeline
