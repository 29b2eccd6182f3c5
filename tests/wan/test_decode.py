"""`stream` yields each frame once, in slices of at most four as they are decoded, and keeps no chunk-sized video."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.wan.test_multitalk import options_of, request_of
from wan import MultiTalkPipeline
from wan.checkpoint import load_models
from wan.configs import ModelConfig


@pytest.fixture
def pipeline(puppet: ModelConfig, puppet_folder: Path) -> MultiTalkPipeline:
    return MultiTalkPipeline.from_models(puppet, load_models(puppet, puppet_folder, torch.device("cpu")))


def test_slices_have_at_most_four_frames(pipeline: MultiTalkPipeline) -> None:
    slices = list(pipeline.stream(request_of(18, 18), options_of(pipeline.config)))
    assert [frames.shape[1] for frames in slices] == [1, 4, 4, 4, 4, 1]


def test_slices_are_yielded_while_later_ones_are_not_decoded(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, decoded = pipeline.models.vae.decode, []

    def count_slices(latent_CTHW: Tensor, rest: torch.device | None = None) -> Iterator[Tensor]:
        for frames in decode(latent_CTHW, rest):
            decoded.append(frames.shape[1])
            yield frames

    monkeypatch.setattr(pipeline.models.vae, "decode", count_slices)
    counts = [len(decoded) for _ in pipeline.stream(request_of(18, 18), options_of(pipeline.config))]
    assert counts == [1, 2, 3, 6, 9, 12], "overlapping slices are decoded, not yielded"


def count_live_frames() -> int:
    """Frames 3 x 64 x 128 whose memory is not freed."""
    with warnings.catch_warnings(action="ignore"):
        tensors = [each for each in gc.get_objects() if isinstance(each, Tensor)]
    frames = [each for each in tensors if each.ndim == 4 and each.shape[0] == 3 and each.shape[2:] == (64, 128)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in frames}
    return sum(storages.values()) // (3 * 64 * 128 * torch.float32.itemsize)


def test_iterating_holds_no_chunk_sized_video(pipeline: MultiTalkPipeline) -> None:
    options = options_of(pipeline.config, frame_num=33)
    live_frames = [count_live_frames() for _ in pipeline.stream(request_of(62), options)]
    assert len(live_frames) > 9
    assert max(live_frames) <= options.motion_frame + 3 * 4, "more than the motion frames and three slices"


def test_decoding_resumes_after_out_of_memory(pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    request, options = request_of(12, 12), options_of(pipeline.config, color_correction_strength=1.0)
    expected = list(pipeline.stream(request, options))
    decode, slices = pipeline.models.vae.decode, iter(range(100))

    def run_out_of_memory(latent_CTHW: Tensor, rest: torch.device | None = None) -> Iterator[Tensor]:
        for frames in decode(latent_CTHW, rest):
            if next(slices) in (2, 7):
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
            yield frames

    monkeypatch.setattr(pipeline.models.vae, "decode", run_out_of_memory)
    resumed = list(pipeline.stream(request, options))
    assert pipeline.offload.plan.name != "resident"
    assert [frames.shape for frames in resumed] == [frames.shape for frames in expected]
    assert torch.equal(torch.cat(resumed, dim=1), torch.cat(expected, dim=1))
