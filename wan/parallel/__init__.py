"""Several GPUs of one machine for one video: one process per GPU, of which rank 0 is the caller's.

Rank 0 has all networks, the other ranks only the transformer. They run the same chunk with the same random numbers
(`wan.sampling.sampler`), each its share of the guidance passes and of the tokens (`wan.sampling.mesh`).
"""

from wan.parallel.pool import RankError, RankPool, start_ranks
from wan.parallel.sampler import ParallelSampler

__all__ = ["ParallelSampler", "RankError", "RankPool", "start_ranks"]
