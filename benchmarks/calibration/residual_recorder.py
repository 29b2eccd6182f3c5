"""What the blocks were given and what they added, recorded while clips are sampled."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from wan.modules.rope import RotaryEmbedding
from wan.modules.transformer import Context, MultiTalkTransformer, TimeEmbedding


class Evaluation(NamedTuple):
    """One step: the time projection, and what the blocks added to the tokens of the conditional pass, on the host."""

    timestep_proj: Tensor
    added_BLD: Tensor


@contextmanager
def recording(model: MultiTalkTransformer) -> Iterator[list[Evaluation]]:
    """Collects the evaluations of the blocks."""
    recorded: list[Evaluation] = []
    forward_passes = model.forward_passes

    def recorder(
        x_BLD: Tensor, time: TimeEmbedding, rotary_emb: RotaryEmbedding, contexts: Sequence[Context]
    ) -> list[Tensor]:
        results = forward_passes(x_BLD, time, rotary_emb, contexts)
        recorded.append(Evaluation(time.timestep_proj, (results[0] - x_BLD).cpu()))  # the conditional pass is the first
        return results

    model.forward_passes = recorder  # type: ignore[method-assign]
    try:
        yield recorded
    finally:
        del model.forward_passes
