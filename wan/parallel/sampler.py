"""`ChunkSampler` on all ranks of a pool."""

import torch
from torch import Tensor

from wan.parallel.pool import RankPool
from wan.sampling.sampler import ChunkCondition, ChunkSampler, ClipCondition, ClipState, OnStep


class ParallelSampler(ChunkSampler):
    """Rank 0's sampler: each call runs on every rank, and the results are rank 0's."""

    def __init__(self, local: ChunkSampler, pool: RankPool) -> None:
        super().__init__(local.config, local.transformer, local.device, pool.group.mesh)
        self.pool = pool

    def prepare(self, clip: ClipCondition) -> ClipState:
        return self.pool.call(lambda: super(ParallelSampler, self).prepare(clip), "prepare", clip)

    def sample(self, clip: ClipState, chunk: ChunkCondition, generator: torch.Generator, on_step: OnStep) -> Tensor:
        return self.pool.call(
            lambda: super(ParallelSampler, self).sample(clip, chunk, generator, on_step),
            "sample",
            chunk,
            generator.get_state(),
        )
