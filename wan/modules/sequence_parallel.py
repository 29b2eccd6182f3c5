"""Sequence parallelism of the transformer: each rank holds some places (rows x columns) of every latent frame.

All layers work on a rank's own tokens except self-attention, for which the ranks exchange tokens for heads (Ulysses,
Jacobs et al. 2023): each rank then has all tokens of its heads. Because every frame is split at the same places, the
attention to speech, which is frame by frame, needs no exchange, and places need not divide evenly among the ranks.

Shapes: B batch, L tokens, l tokens of this rank, A heads, a heads of this rank, E head width.
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class SequenceParallel(Protocol):
    """How the tokens of a T x rows x columns grid are split among ranks."""

    def shard(self, x_BL: Tensor) -> Tensor:
        """This rank's tokens of a tensor B x L x ..."""
        ...

    def gather(self, x_Bl: Tensor) -> Tensor:
        """B x L x ... of the B x l x ... of every rank."""
        ...

    def to_heads(self, q_BlAE: Tensor, k_BlAE: Tensor, v_BlAE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all tokens for this rank's heads, each B x L x a x E, tokens in order."""
        ...

    def to_tokens(self, x_BLaE: Tensor) -> Tensor:
        """The inverse of `to_heads`: attention's output for this rank's tokens and all heads, B x l x A x E."""
        ...

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the ranks, on every rank. May write into `x`."""
        ...


class SingleDevice:
    """One rank, which holds everything: all methods are the identity."""

    def shard(self, x_BL: Tensor) -> Tensor:
        return x_BL

    def gather(self, x_Bl: Tensor) -> Tensor:
        return x_Bl

    def to_heads(self, q_BlAE: Tensor, k_BlAE: Tensor, v_BlAE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q_BlAE, k_BlAE, v_BlAE

    def to_tokens(self, x_BLaE: Tensor) -> Tensor:
        return x_BLaE

    def mean(self, x: Tensor) -> Tensor:
        return x


SINGLE_DEVICE = SingleDevice()


class Ulysses:
    """Tokens split among the ranks of a process group; the number of ranks divides the number of heads."""

    def __init__(self, group: dist.ProcessGroup, num_frames: int, num_places: int) -> None:
        """A grid of `num_frames` latent frames of `num_places` tokens each, of which every rank has at least one."""
        self.group = group
        self.rank, self.size = group.rank(), group.size()
        self.num_frames, self.num_places = num_frames, num_places
        self.places = [len(part) for part in torch.arange(num_places).tensor_split(self.size)]
        self.tokens = [num_frames * places for places in self.places]

    def shard(self, x_BL: Tensor) -> Tensor:
        return self._split_places(x_BL)[self.rank].flatten(1, 2)

    def gather(self, x_Bl: Tensor) -> Tensor:
        own = x_Bl.transpose(0, 1)
        received = self._exchange(own.repeat(self.size, *[1] * (own.ndim - 1)), [len(own)] * self.size, self.tokens)
        return self._join_places(received, dim=1)

    def to_heads(self, q_BlAE: Tensor, k_BlAE: Tensor, v_BlAE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = torch.stack((q_BlAE, k_BlAE, v_BlAE)).unflatten(3, (self.size, -1))
        sent = qkv.permute(3, 2, 0, 1, 4, 5).flatten(0, 1)
        received = self._exchange(sent, [qkv.shape[2]] * self.size, self.tokens)
        q, k, v = self._join_places(received, dim=2).unbind(0)
        return q, k, v

    def to_tokens(self, x_BLaE: Tensor) -> Tensor:
        sent = torch.cat([part.flatten(1, 2).transpose(0, 1) for part in self._split_places(x_BLaE)])
        own = self.tokens[self.rank]
        received = self._exchange(sent, self.tokens, [own] * self.size)
        return received.unflatten(0, (self.size, own)).permute(2, 1, 0, 3, 4).flatten(2, 3)

    def mean(self, x: Tensor) -> Tensor:
        dist.all_reduce(x, group=self.group)
        return x / self.size

    def _split_places(self, x_BL: Tensor) -> tuple[Tensor, ...]:
        """Views of the tokens of every rank, each B x T x places x ..."""
        return x_BL.unflatten(1, (self.num_frames, self.num_places)).split(self.places, dim=2)

    def _join_places(self, x_L: Tensor, dim: int) -> Tensor:
        """The tokens of dimension 0, rank by rank, in order as dimension `dim`."""
        parts = (
            part.unflatten(0, (self.num_frames, -1)).movedim((0, 1), (dim, dim + 1)) for part in x_L.split(self.tokens)
        )
        return torch.cat(tuple(parts), dim=dim + 1).flatten(dim, dim + 1)

    def _exchange(self, sent: Tensor, sent_rows: list[int], received_rows: list[int]) -> Tensor:
        """Send a range of rows to every rank and receive one from each, in the order of the ranks."""
        received = sent.new_empty(sum(received_rows), *sent.shape[1:])
        dist.all_to_all_single(received, sent.contiguous(), received_rows, sent_rows, group=self.group)
        return received
