"""MultiTalk: videos of one or two talking persons from an image, speech and a prompt."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wan.multitalk import MultiTalkPipeline

__all__ = ["MultiTalkPipeline"]


def __getattr__(name: str) -> Any:
    """Import the pipeline, and with it torch, on first access."""
    if name != "MultiTalkPipeline":
        raise AttributeError(f"module 'wan' has no attribute {name!r}")
    from wan.multitalk import MultiTalkPipeline

    return MultiTalkPipeline
