"""Exchange of tokens between ranks, all of them in one process."""

import math
import threading
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.report.multi_gpu import exchanged_bytes
from wan.configs import ModelConfig
from wan.modules.sequence_parallel import Ulysses
from wan.modules.transformer import MultiTalkTransformer
from wan.sampling.mesh import MeshShape
from wan.types import VideoSize


class Ranks:
    """Process groups of threads, in place of `torch.distributed`; counts the bytes sent to other ranks."""

    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size = size
        self.sent = [0] * size
        self.slots: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)
        monkeypatch.setattr(dist, "all_to_all_single", self.all_to_all_single)
        monkeypatch.setattr(dist, "all_reduce", self.all_reduce)

    def all_gather(self, rank: int, value: Any) -> list[Any]:
        self.slots[rank] = value
        self.barrier.wait()
        values = list(self.slots)
        self.barrier.wait()
        return values

    def all_to_all_single(
        self, received: Tensor, sent: Tensor, received_rows: list[int], sent_rows: list[int], group: Any
    ) -> None:
        rank = group.rank()
        self.sent[rank] += sum(part.nbytes for other, part in enumerate(sent.split(sent_rows)) if other != rank)
        parts = [each.split(rows)[rank] for each, rows in self.all_gather(rank, (sent, sent_rows))]
        assert [len(part) for part in parts] == received_rows
        received.copy_(torch.cat(parts))

    def all_reduce(self, x: Tensor, group: Any) -> None:
        rank = group.rank()
        self.sent[rank] += 2 * x.nbytes * (self.size - 1) // self.size  # a ring
        x.copy_(torch.stack([each.clone() for each in self.all_gather(rank, x.clone())]).sum(0))

    def run(self, function: Any) -> list[Any]:
        """The results of `function(group)` on every rank."""
        results: list[Any] = [None] * self.size

        def work(rank: int) -> None:
            with torch.inference_mode():
                results[rank] = function(type("Group", (), {"rank": lambda _: rank, "size": lambda _: self.size})())

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


@pytest.mark.parametrize("size", [2, 3])
def test_tokens_and_heads_are_exchanged_and_back(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, places, heads = 3, 7, 6  # uneven: 7 places for 2 or 3 ranks
    x = torch.randn(2, frames * places, heads, 4)

    def exchange(group: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        parallel = Ulysses(group, frames, places)
        own = parallel.shard(x)
        q, k, _ = parallel.to_heads(own, own + 1, own + 2)
        return own, q, parallel.to_tokens(k), parallel.gather(own)

    results = Ranks(size, monkeypatch).run(exchange)
    assert torch.equal(torch.cat([q for _, q, _, _ in results], dim=2), x)
    for own, _, returned, gathered in results:
        assert torch.equal(returned, own + 1)
        assert torch.equal(gathered, x)


def test_bytes_exchanged_are_those_of_the_formula(puppet: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config, size = puppet.transformer, VideoSize(frames=9, height=64, width=128)
    ranks = Ranks(2, monkeypatch)
    model = MultiTalkTransformer(config).eval()
    tokens = math.prod(size.grid)

    def step(group: Any) -> None:
        parallel = Ulysses(group, size.grid[0], tokens // size.grid[0])
        q = torch.zeros(1, tokens // 2, config.num_heads, config.head_dim)
        for _ in range(2 * (config.num_layers - 1) + 1):
            parallel.to_tokens(parallel.to_heads(q, q, q)[0])
            parallel.mean(torch.zeros(1, tokens, 3))
        for _ in range(2):
            parallel.gather(model.head(torch.zeros(1, tokens // 2, config.dim), torch.zeros(1, config.dim)))

    ranks.run(step)
    expected = exchanged_bytes(config, size, MeshShape(1, 2), 2, 4, labels=True)
    assert ranks.sent == [expected, expected]
