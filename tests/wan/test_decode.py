"""`stream` yields each frame once, in slices of at most four as they are decoded, and keeps no chunk-sized video."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.wan.test_multitalk import options_of, request_of
from wan import MultiTalkPipeline
from wan.checkpoint import load_models
from wan.chunks import Chunk
from wan.configs import ModelConfig
from wan.decode import DecodedChunk
from wan.offload.estimate import HOST
from wan.offload.streaming import OffloadedModule


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

    def count_slices(latent_CTHW: Tensor, offload_device: torch.device | None = None) -> Iterator[Tensor]:
        for frames in decode(latent_CTHW, offload_device):
            decoded.append(frames.shape[1])
            yield frames

    monkeypatch.setattr(pipeline.models.vae, "decode", count_slices)
    counts = [len(decoded) for _ in pipeline.stream(request_of(18, 18), options_of(pipeline.config))]
    assert counts == [1, 2, 3, 6, 9, 12], "overlapping slices are decoded, not yielded"


def frame_storages() -> dict[int, int]:
    """Bytes of every live storage that holds frames 3 x F x 64 x 128, by address."""
    tensors = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]  # isinstance would call proxies
    frames = [each for each in tensors if each.ndim == 4 and each.shape[0] == 3 and each.shape[2:] == (64, 128)]
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in frames}


def test_iterating_holds_no_chunk_sized_video(pipeline: MultiTalkPipeline) -> None:
    gc.collect()
    before = frame_storages()  # what other tests hold

    def count_live_frames() -> int:
        storages = frame_storages()
        return sum(storages[key] for key in storages.keys() - before.keys()) // (3 * 64 * 128 * 4)

    options = options_of(pipeline.config, frame_num=33)
    live_frames = [count_live_frames() for _ in pipeline.stream(request_of(62), options)]
    assert len(live_frames) > 9
    assert max(live_frames) <= options.motion_frame + 3 * 4, "more than the motion frames and three slices"


def test_decoding_resumes_after_out_of_memory(pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    request, options = request_of(12, 12), options_of(pipeline.config, color_correction_strength=1.0)
    expected = list(pipeline.stream(request, options))
    decode, slices = pipeline.models.vae.decode, iter(range(100))

    def run_out_of_memory(latent_CTHW: Tensor, offload_device: torch.device | None = None) -> Iterator[Tensor]:
        for frames in decode(latent_CTHW, offload_device):
            if next(slices) in (2, 7):
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
            yield frames

    monkeypatch.setattr(pipeline.models.vae, "decode", run_out_of_memory)
    resumed = list(pipeline.stream(request, options))
    assert pipeline.offload.plan.name != "resident"
    assert [frames.shape for frames in resumed] == [frames.shape for frames in expected]
    assert torch.equal(torch.cat(resumed, dim=1), torch.cat(expected, dim=1))


def test_closing_the_stream_offloads_the_vae(
    puppet: ModelConfig, pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, attached = pipeline.offload.plan, []
    pipeline.offload.apply(replace(plan, keep_encoders=False))
    offloaded = pipeline.offload._offloaded[pipeline.models.vae]
    monkeypatch.setattr(OffloadedModule, "point_at", lambda module, buffer: attached.append((module, buffer)))
    slices = pipeline.stream(request_of(9), options_of(puppet))
    next(slices)
    attached.clear()
    slices.close()
    [(module, buffer)] = attached
    assert module is offloaded
    assert buffer is offloaded.buffer
    pipeline.offload.apply(plan)
    assert pipeline.offload._offloaded == {}


def test_decoded_chunk_returns_new_frames_and_keeps_motion_frames() -> None:
    decoded = DecodedChunk(Chunk(index=1, start=8, stop=21, overlap=3, num_new=10), num_motion=5)
    frames = torch.arange(13.0).expand(3, 2, 2, 13).movedim(-1, 1)
    new = [decoded.add(frames[:, start:stop], HOST) for start, stop in ((0, 1), (1, 5), (5, 9), (9, 13))]
    assert [each[0, :, 0, 0].tolist() for each in new] == [[], [3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    motion_frames = decoded.motion_frames(HOST)
    assert motion_frames is not None
    assert motion_frames[0, :, 0, 0].tolist() == [8, 9, 10, 11, 12]


def test_decoded_chunk_is_complete_at_the_end_of_the_scene() -> None:
    decoded = DecodedChunk(Chunk(index=0, start=0, stop=13, overlap=0, num_new=3), num_motion=0)
    assert decoded.add(torch.zeros(3, 1, 2, 2), HOST).shape[1] == 1
    assert not decoded.is_complete
    assert decoded.add(torch.zeros(3, 4, 2, 2), HOST).shape[1] == 2
    assert decoded.is_complete
    assert decoded.motion_frames(HOST) is None
