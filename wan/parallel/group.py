"""The process group of all ranks."""

import gc
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from wan.sampling.mesh import Mesh, RankMesh, choose_shape

TIMEOUT = timedelta(seconds=60)
"""Of one collective operation. The ranks of a chunk run in step, so that one waits for another only this long if that
one hangs."""

MAX_PASSES = 3


def open_store(port: int | None = None) -> TCPStore:
    """The key-value store through which the ranks find one another: rank 0's at `port`, or a new one."""
    return TCPStore("127.0.0.1", port or 0, is_master=port is None, wait_for_workers=False, timeout=TIMEOUT)


class RankGroup:
    """This process's membership in the group. After a failure on any rank all of them disconnect and connect again."""

    def __init__(self, store: TCPStore, rank: int, num_ranks: int, device: torch.device, num_heads: int) -> None:
        self.store = store
        self.rank = rank
        self.num_ranks = num_ranks
        self.device = device
        self.num_heads = num_heads
        self._meshes: dict[tuple[int, int], RankMesh] = {}

    @property
    def head_counts(self) -> set[int]:
        """How many heads a rank may attend with, over all numbers of guidance passes."""
        shapes = (choose_shape(self.num_ranks, passes, self.num_heads) for passes in range(1, MAX_PASSES + 1))
        return {self.num_heads // shape.places for shape in shapes}

    def connect(self, generation: int) -> None:
        """Connect with all other ranks, which call this with the same number. Raises RuntimeError if one does not.

        A rank that has not failed itself leaves the old group here.
        """
        self.disconnect()
        cuda = self.device.type == "cuda"
        dist.init_process_group(
            backend="nccl" if cuda else "gloo",
            store=PrefixStore(str(generation), self.store),
            rank=self.rank,
            world_size=self.num_ranks,
            timeout=TIMEOUT,
            device_id=self.device if cuda else None,
        )

    def disconnect(self, error: BaseException | None = None) -> None:
        """Leave the group, after `error`. Closing the connections ends the operations that other ranks wait in.

        gloo closes them when nothing refers to the groups any more: not even the frames of the error's traceback.
        """
        if error is not None:
            traceback.clear_frames(error.__traceback__)
        self.abort()
        self._meshes.clear()
        if dist.is_initialized():
            dist.destroy_process_group()
        gc.collect()

    def abort(self) -> None:
        """End the operations of this rank that wait for another one; from any thread. gloo has no such call."""
        if self.device.type == "cuda" and dist.is_initialized():
            for group in (dist.group.WORLD, *(mesh.group for mesh in self._meshes.values())):
                if group is not None:
                    group.abort()

    def mesh(self, num_passes: int) -> Mesh:
        """The mesh for so many guidance passes; the first call for a shape has to be made by every rank."""
        shape = choose_shape(self.num_ranks, num_passes, self.num_heads)
        if shape not in self._meshes:
            self._meshes[shape] = RankMesh(shape)
        return self._meshes[shape]
