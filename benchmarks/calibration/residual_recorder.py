"""Record the timestep modulation and the residual of the transformer blocks while clips are sampled."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from wan.modules.rope import RotaryEmbedding
from wan.modules.sequence_parallel import SINGLE_DEVICE, SequenceParallel
from wan.modules.transformer import Context, MultiTalkTransformer, TimeEmbedding


class StepRecord(NamedTuple):
    """One denoising step: timestep modulation, and the residual of the blocks in the conditional pass, on the CPU."""

    timestep_proj: Tensor
    residual_BLD: Tensor


@contextmanager
def record_residuals(model: MultiTalkTransformer) -> Iterator[list[StepRecord]]:
    """Collect a record of every step that the model computes inside the context."""
    records: list[StepRecord] = []
    forward_passes = model.forward_passes

    def recorder(
        x_BLD: Tensor,
        time: TimeEmbedding,
        rotary_emb: RotaryEmbedding,
        contexts: Sequence[Context],
        parallel: SequenceParallel = SINGLE_DEVICE,
    ) -> list[Tensor]:
        results = forward_passes(x_BLD, time, rotary_emb, contexts, parallel)
        records.append(StepRecord(time.timestep_proj, (results[0] - x_BLD).cpu()))  # the conditional pass is the first
        return results

    model.forward_passes = recorder  # type: ignore[method-assign]
    try:
        yield records
    finally:
        del model.forward_passes
