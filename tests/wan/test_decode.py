"""Frames go out while the others of their chunk are still being decoded: all of them, each once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.wan.test_multitalk import options_of, request_of
from wan import MultiTalkPipeline
from wan.checkpoint import load_models
from wan.chunks import Chunk
from wan.configs import ModelConfig
from wan.decode import FrameSink
from wan.modules.vae import VideoVAE


@pytest.fixture
def pipeline(puppet: ModelConfig, puppet_folder: Path) -> MultiTalkPipeline:
    return MultiTalkPipeline.from_models(puppet, load_models(puppet, puppet_folder, torch.device("cpu")))


def test_the_frames_that_go_out_early_are_those_of_the_video(pipeline: MultiTalkPipeline) -> None:
    handed: list[Tensor] = []
    counts: list[int] = []
    chunks: list[Tensor] = []
    for chunk in pipeline.stream(request_of(18, 18), options_of(pipeline.config), hand_on=handed.append):
        counts.append(len(handed))
        chunks.append(chunk)
    assert torch.equal(torch.cat(handed, dim=1), torch.cat(chunks, dim=1))
    assert [piece.shape[1] for piece in handed] == [1, 4, 4, 4, 4, 1]
    assert counts == [3, 4, 5, 6]


def test_each_goes_out_once_where_decoding_begins_anew(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, options = request_of(12, 12), options_of(pipeline.config)
    expected = torch.cat(list(pipeline.stream(request, options)), dim=1)
    decode, slices = VideoVAE.decode, iter(range(100))

    def runs_out(self: VideoVAE, latent_CTHW: Tensor, rest: torch.device | None = None) -> Iterator[Tensor]:
        for piece in decode(self, latent_CTHW, rest):
            if next(slices) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")
            yield piece

    monkeypatch.setattr(VideoVAE, "decode", runs_out)
    handed: list[Tensor] = []
    whole = torch.cat(list(pipeline.stream(request, options, hand_on=handed.append)), dim=1)
    assert pipeline.offload.plan.name != "resident"
    assert torch.equal(whole, expected)
    assert torch.equal(torch.cat(handed, dim=1), expected)


def test_what_a_chunk_repeats_and_what_is_cut_does_not_go_out() -> None:
    handed: list[int] = []
    outlet = FrameSink(
        Chunk(index=1, start=8, stop=21, overlap=3, fresh=6), lambda x: handed.extend(x[0, :, 0, 0].tolist())
    )
    frames = torch.arange(13.0).expand(3, 2, 2, 13).movedim(-1, 1)
    for _ in range(2):
        for first, last in ((0, 1), (1, 5), (5, 9), (9, 13)):
            outlet.pass_on(first, frames[:, first:last])
    assert handed == [3, 4, 5, 6, 7, 8]
