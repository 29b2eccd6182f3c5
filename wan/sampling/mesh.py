"""The ranks of one video as a mesh: guidance passes on one axis, places of the token grid on the other.

Passes on different ranks exchange nothing but their velocities, places exchange all queries, keys and values
(`wan.modules.sequence_parallel`). So passes are spread first, where that leaves no rank less to do.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from wan.modules.sequence_parallel import SINGLE_DEVICE, SequenceParallel, Ulysses


class Mesh(Protocol):
    """Which passes and which tokens this rank computes."""

    def own(self, passes: Sequence[str]) -> tuple[str, ...]:
        """The passes of a step that this rank computes."""
        ...

    def gather(self, velocities: Mapping[str, Tensor], passes: Sequence[str], like: Tensor) -> dict[str, Tensor]:
        """The velocities of all passes from those of `own` on every rank; each has shape and dtype of `like`."""
        ...

    def sequence(self, grid: tuple[int, int, int]) -> SequenceParallel:
        """How the tokens of a T x rows x columns grid are split among the ranks that compute the same passes."""
        ...


class SingleRank:
    """One rank, which computes everything."""

    def own(self, passes: Sequence[str]) -> tuple[str, ...]:
        return tuple(passes)

    def gather(self, velocities: Mapping[str, Tensor], passes: Sequence[str], like: Tensor) -> dict[str, Tensor]:
        return dict(velocities)

    def sequence(self, grid: tuple[int, int, int]) -> SequenceParallel:
        return SINGLE_DEVICE


SINGLE_RANK = SingleRank()


class MeshShape(NamedTuple):
    """Number of groups that share the passes, and of ranks in each group, which share the tokens."""

    passes: int
    places: int


def choose_shape(num_ranks: int, num_passes: int, num_heads: int) -> MeshShape:
    """The shape with the least work per rank, of these the one with most groups; the last ranks may have no work.

    The number of places divides `num_heads`.
    """
    shapes = [
        MeshShape(passes, places)
        for passes in range(1, min(num_ranks, num_passes) + 1)
        for places in range(1, num_ranks // passes + 1)
        if num_heads % places == 0
    ]
    return min(shapes, key=lambda shape: (math.ceil(num_passes / shape.passes) / shape.places, -shape.passes))


class RankMesh:
    """The mesh of the default process group: rank = group index x places + place index."""

    def __init__(self, shape: MeshShape) -> None:
        """To be called on every rank: creates the process groups."""
        self.shape = shape
        self.index = dist.get_rank() // shape.places
        self.covers_all = shape.passes * shape.places == dist.get_world_size()
        starts = range(0, shape.passes * shape.places, shape.places)
        groups = [dist.new_group(list(range(start, start + shape.places))) for start in starts]
        self.group = groups[self.index] if self.index < shape.passes else None

    def own(self, passes: Sequence[str]) -> tuple[str, ...]:
        return tuple(passes[self.index :: self.shape.passes]) if self.group is not None else ()

    def gather(self, velocities: Mapping[str, Tensor], passes: Sequence[str], like: Tensor) -> dict[str, Tensor]:
        if self.covers_all and self.shape.passes == 1:
            return dict(velocities)
        gathered = {name: velocities[name] if name in velocities else torch.empty_like(like) for name in passes}
        for position, velocity in enumerate(gathered.values()):
            dist.broadcast(velocity, src=position % self.shape.passes * self.shape.places)
        return gathered

    def sequence(self, grid: tuple[int, int, int]) -> SequenceParallel:
        if self.group is None or self.shape.places == 1:
            return SINGLE_DEVICE
        frames, rows, columns = grid
        return Ulysses(self.group, frames, rows * columns)
