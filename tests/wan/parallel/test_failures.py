"""What fails on another rank ends the request on all of them, and the next one works unless the process has ended."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import wan.parallel.pool
from tests.wan.parallel.cases import ATOL, SMALL, generate, input_data
from wan import MultiTalkPipeline
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.parallel import RankError


def faulty(
    monkeypatch: pytest.MonkeyPatch, config: ModelConfig, folder: Path, fault: str, **kwargs: Any
) -> MultiTalkPipeline:
    """Two ranks, of which the second fails once."""
    monkeypatch.setenv("MULTITALK_TEST_FAULT", fault)
    monkeypatch.setattr(wan.parallel.pool, "WORKER", "tests.wan.parallel.faulty_worker")
    return MultiTalkPipeline(config, folder, num_gpus=2, **kwargs)


def test_error_on_another_rank_is_raised_and_the_next_request_works(
    monkeypatch: pytest.MonkeyPatch, puppet: ModelConfig, puppet_folder: Path, expected: dict[str, Tensor]
) -> None:
    pipeline = faulty(monkeypatch, puppet, puppet_folder, "2 error")
    with pytest.raises(RuntimeError, match="GPU 1: ValueError: a fault"):
        generate(pipeline, "two persons, three passes")
    actual = generate(pipeline, "two persons, three passes")
    pipeline.close()
    torch.testing.assert_close(actual, expected["two persons, three passes"], atol=ATOL, rtol=0)


def test_rank_out_of_memory_makes_all_ranks_use_the_next_smaller_plan(
    monkeypatch: pytest.MonkeyPatch, puppet: ModelConfig, puppet_folder: Path, expected: dict[str, Tensor]
) -> None:
    pipeline = faulty(monkeypatch, puppet, puppet_folder, "2 out of memory", memory_limit=10**10)
    actual = generate(pipeline, "two persons, three passes")
    assert pipeline.offload.plan.name != "resident"
    pipeline.close()
    torch.testing.assert_close(actual, expected["two persons, three passes"], atol=ATOL, rtol=0)


def test_killed_rank_fails_the_request_and_every_later_one(
    monkeypatch: pytest.MonkeyPatch, puppet: ModelConfig, puppet_folder: Path
) -> None:
    pipeline = faulty(monkeypatch, puppet, puppet_folder, "2 killed")
    pipeline.check()
    for _ in range(2):
        with pytest.raises(RankError, match=r"the process of GPU 1 has ended \(status -9\); restart the server"):
            generate(pipeline, "two persons, three passes")
    with pytest.raises(RankError):
        pipeline.check()
    pipeline.close()


def test_rank_that_cannot_load_is_named(
    monkeypatch: pytest.MonkeyPatch, puppet: ModelConfig, puppet_folder: Path
) -> None:
    monkeypatch.setattr(wan.parallel.pool, "WORKER", "tests.wan.parallel.no_such_module")
    with pytest.raises(RuntimeError, match="GPU 1 could not load the model"):
        MultiTalkPipeline(puppet, puppet_folder, num_gpus=2)


def test_blocks_are_streamed_on_every_rank(
    puppet: ModelConfig, puppet_folder: Path, expected: dict[str, Tensor]
) -> None:
    pipeline = MultiTalkPipeline(puppet, puppet_folder, num_gpus=2, num_persistent_param_in_dit=0)
    actual = generate(pipeline, "two persons, three passes")
    pipeline.close()
    torch.testing.assert_close(actual, expected["two persons, three passes"], atol=ATOL, rtol=0)


def test_infinitetalk_video_is_that_of_one_rank(puppet_folder: Path) -> None:
    config = WAN_CONFIGS["infinitetalk-puppet"]
    alone, parallel = (MultiTalkPipeline(config, puppet_folder, num_gpus=n) for n in (1, 2))
    videos = [pipeline.generate(input_data(14, 14), turbo=False, **SMALL) for pipeline in (alone, parallel)]
    parallel.close()
    torch.testing.assert_close(videos[1], videos[0], atol=ATOL, rtol=0)


@pytest.mark.soak
def test_fifty_requests_leave_nothing(puppet: ModelConfig, puppet_folder: Path) -> None:
    pipeline = MultiTalkPipeline(puppet, puppet_folder, num_gpus=2)
    assert pipeline.pool is not None
    pids = [os.getpid(), *(rank.process.pid for rank in pipeline.pool.ranks)]
    sizes = []
    for _ in range(50):
        generate(pipeline, "two persons, three passes")
        sizes.append([(open_files(pid), threads(pid)) for pid in pids])
    pipeline.close()
    assert sizes[-1] == sizes[4]


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_cancellation_while_replies_are_awaited_leaves_all_ranks_ready(
    monkeypatch: pytest.MonkeyPatch, puppet: ModelConfig, puppet_folder: Path, expected: dict[str, Tensor]
) -> None:
    pipeline = MultiTalkPipeline(puppet, puppet_folder, num_gpus=2)
    assert pipeline.pool is not None
    collect = pipeline.pool._collect

    def cancelled_once() -> Any:
        monkeypatch.setattr(pipeline.pool, "_collect", collect)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.pool, "_collect", cancelled_once)
    with pytest.raises(KeyboardInterrupt):
        generate(pipeline, "two persons, three passes")
    actual = generate(pipeline, "two persons, three passes")
    pipeline.close()
    torch.testing.assert_close(actual, expected["two persons, three passes"], atol=ATOL, rtol=0)
