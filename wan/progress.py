"""What a caller is told while a video is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from wan.sampling.plan import Step, fraction_done


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What has just been done; counts are from 1.

    Stages: "prepare" once, then for every chunk "condition", "denoise" (once a step) and "decode". `share` is how much
    of the chunk's denoising is done, 0..1, by how often the network is run.
    """

    stage: str
    chunk: int
    chunks: int
    step: int = 1
    steps: int = 1
    share: float = 1.0


class Report(Protocol):
    """Says that a stage, or a step of it, is done."""

    def __call__(self, stage: str, plan: Sequence[Step] = (), step: int = 1) -> None: ...


def reporter(progress: Callable[[Progress], None] | None, device: torch.device, chunk: int, chunks: int) -> Report:
    """What tells the caller that a stage, or a step of it, is done; waits for the device, so that it is true."""

    def report(stage: str, plan: Sequence[Step] = (), step: int = 1) -> None:
        if progress is None:
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        share = fraction_done(plan, step) if plan else 1.0
        steps = max(len(plan), 1)
        progress(Progress(stage=stage, chunk=chunk, chunks=chunks, step=step, steps=steps, share=share))

    return report
