"""Progress of a generation, reported to one callback of the caller."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from wan.sampling.plan import Step, fraction_done


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The stage that has just ended; `chunk` and `step` count from 1.

    Stages: "prepare" once, then for each chunk "condition", "denoise" (once per step) and "decode". `fraction` is that
    of the chunk's block evaluations that are done, 0..1.
    """

    stage: str
    chunk: int
    num_chunks: int
    step: int = 1
    num_steps: int = 1
    fraction: float = 1.0


class Reporter(Protocol):
    """Reports the end of a stage, or of one of its steps."""

    def __call__(self, stage: str, plan: Sequence[Step] = (), step: int = 1) -> None: ...


def make_reporter(
    on_progress: Callable[[Progress], None] | None, device: torch.device, chunk: int, num_chunks: int
) -> Reporter:
    """Reporter of one chunk that synchronizes the device before it calls `on_progress`; a no-op without callback."""

    def report(stage: str, plan: Sequence[Step] = (), step: int = 1) -> None:
        if on_progress is None:
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fraction = fraction_done(plan, step) if plan else 1.0
        num_steps = max(len(plan), 1)
        on_progress(
            Progress(stage=stage, chunk=chunk, num_chunks=num_chunks, step=step, num_steps=num_steps, fraction=fraction)
        )

    return report
