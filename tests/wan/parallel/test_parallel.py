"""Several ranks on the CPU make the video of one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.wan.parallel.cases import ATOL, CASES, generate
from wan import MultiTalkPipeline
from wan.checkpoint.lora import Lora, LoraError
from wan.configs import ModelConfig
from wan.progress import Progress
from wan.sampling.mesh import choose_shape


@pytest.fixture(scope="module", params=[2, 3, 4])
def parallel(request: pytest.FixtureRequest, puppet: ModelConfig, puppet_folder: Path) -> Iterator[MultiTalkPipeline]:
    pipeline = MultiTalkPipeline(puppet, puppet_folder, num_gpus=request.param)
    yield pipeline
    pipeline.close()


@pytest.mark.parametrize("case", CASES)
def test_video_is_that_of_one_rank(parallel: MultiTalkPipeline, expected: dict[str, Tensor], case: str) -> None:
    torch.testing.assert_close(generate(parallel, case), expected[case], atol=ATOL, rtol=0)


@pytest.mark.parametrize(
    ("ranks", "passes", "heads", "shape"),
    [
        *((2, 2, 40, (2, 1)), (2, 3, 40, (1, 2)), (2, 1, 40, (1, 2)), (3, 3, 40, (3, 1)), (4, 2, 40, (2, 2))),
        *((8, 2, 40, (2, 4)), (8, 3, 40, (1, 8)), (8, 1, 40, (1, 8)), (3, 2, 40, (2, 1)), (3, 1, 40, (1, 2))),
        *((3, 1, 6, (1, 3)), (4, 1, 6, (1, 3)), (6, 3, 40, (3, 2)), (1, 3, 40, (1, 1))),
    ],
)
def test_shape_of_the_mesh(ranks: int, passes: int, heads: int, shape: tuple[int, int]) -> None:
    assert choose_shape(ranks, passes, heads) == shape


class CancelledError(BaseException):
    pass


@pytest.mark.parametrize("stage", ["prepare", "condition", "denoise", "decode"])
def test_exception_in_a_stage_ends_all_ranks_and_the_next_request_works(
    parallel: MultiTalkPipeline, expected: dict[str, Tensor], stage: str
) -> None:
    def cancel(progress: Progress) -> None:
        if progress.stage == stage:
            raise CancelledError

    with pytest.raises(CancelledError):
        generate(parallel, "two persons, two passes", progress=cancel)
    actual = generate(parallel, "two persons, two passes")
    torch.testing.assert_close(actual, expected["two persons, two passes"], atol=ATOL, rtol=0)


def test_lora_that_does_not_fit_is_refused_with_the_same_error(
    parallel: MultiTalkPipeline, expected: dict[str, Tensor]
) -> None:
    with pytest.raises(LoraError):
        parallel.use_loras([Lora(weights={"blocks.0.self_attn.q.lora_A.weight": torch.zeros(4, 7)})])
    actual = generate(parallel, "one person, two passes")
    torch.testing.assert_close(actual, expected["one person, two passes"], atol=ATOL, rtol=0)
