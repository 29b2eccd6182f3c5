"""The pipeline: signatures, lengths, seeds, progress reports, errors."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from wan import MultiTalkPipeline
from wan.checkpoint.lora import Lora
from wan.conditioning.request import Request
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules.transformer import Context
from wan.progress import Progress
from wan.sampling.options import SamplingOptions, resolve_options

SMALL: dict[str, Any] = {"frame_num": 9, "motion_frame": 5, "sampling_steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def pipeline(puppet: ModelConfig, puppet_folder: Path) -> MultiTalkPipeline:
    return MultiTalkPipeline(config=puppet, checkpoint_dir=puppet_folder, device_id=0)


def speech(frames: int, seed: int = 0) -> Tensor:
    """Random speech embeddings."""
    return torch.randn(frames, 4, 64, generator=torch.Generator().manual_seed(seed))


def image() -> Image.Image:
    gradient = Image.linear_gradient("L").resize((256, 128))
    return Image.merge("RGB", (gradient, gradient.transpose(Image.Transpose.FLIP_LEFT_RIGHT), gradient))


def input_data(*frames: int) -> dict[str, Any]:
    """The classic form, with speech of so many frames for each person."""
    audio = {f"person{i + 1}": speech(n, i) for i, n in enumerate(frames)}
    return {"prompt": "hello", "cond_image": image(), "cond_audio": audio}


def request_of(*frames: int) -> Request:
    return Request(image=image(), speech=tuple(speech(n, i) for i, n in enumerate(frames)), prompt="hello")


def options_of(config: ModelConfig, **changes: Any) -> SamplingOptions:
    return resolve_options(config, size_class="480", turbo=True, **{**SMALL, **changes})


def test_generate_signature() -> None:
    parameters = list(inspect.signature(MultiTalkPipeline.generate).parameters.values())[1:]
    assert [(p.name, p.default) for p in parameters][:13] == [
        *(("input_data", inspect.Parameter.empty), ("size_buckget", "multitalk-480"), ("motion_frame", 25)),
        *(("frame_num", 81), ("shift", None), ("sampling_steps", 40), ("text_guide_scale", None)),
        *(("audio_guide_scale", None), ("n_prompt", ""), ("seed", -1), ("max_frames_num", 1000)),
        *(("color_correction_strength", 0.0), ("turbo", True)),
    ]
    assert all(p.default is not inspect.Parameter.empty for p in parameters[1:])
    assert {p.name: p.default for p in parameters[13:]} == {
        "teacache_thresh": None,
        "use_apg": False,
        "apg_momentum": -0.75,
        "apg_norm_threshold": 55.0,
        "aspect": "bucket",
        "cache": "teacache",
        "magcache_thresh": None,
        "guidance_reuse": False,
        "loras": None,
        "progress": None,
        "embed_speech": None,
    }


def test_public_names_and_signatures() -> None:
    known = ["config", "checkpoint_dir", "device_id"]
    assert list(inspect.signature(MultiTalkPipeline).parameters)[:3] == known
    assert inspect.signature(MultiTalkPipeline).parameters["device_id"].default == 0
    assert set(WAN_CONFIGS) >= {"multitalk-14B", "multitalk-puppet"}
    inspect.signature(Wav2Vec2Model.from_pretrained).bind("folder", local_files_only=True)
    assert list(inspect.signature(Wav2Vec2Model.extract_features).parameters)[1:] == ["audio", "sr"]
    assert len(inspect.signature(Wav2Vec2Model.get_embeddings).parameters) == 2


def test_config_with_unknown_key_raises_type_error() -> None:
    with pytest.raises(TypeError, match="surprise"):
        replace(WAN_CONFIGS["multitalk-14B"], surprise=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("frames", "limit", "expected"),
    [((1,), 1000, 1), ((7,), 1000, 7), ((9,), 1000, 9), ((10,), 1000, 10), ((30,), 11, 11), ((6, 12), 1000, 12)],
)
def test_video_length_is_that_of_the_longest_speech(
    pipeline: MultiTalkPipeline, frames: tuple[int, ...], limit: int, expected: int
) -> None:
    video = pipeline.generate(input_data(*frames), max_frames_num=limit, **{**SMALL, "sampling_steps": 1})
    assert video.shape == (3, expected, 64, 128)
    assert video.dtype == torch.float32
    assert video.abs().max() <= 1


def test_plain_form_sets_num_frames_and_motion_frame(pipeline: MultiTalkPipeline) -> None:
    plain = {"prompt": "x", "image": image(), "audio_embeddings": speech(40), "num_frames": 10, "motion_frame": 1}
    progress: list[Progress] = []
    video = pipeline.generate(plain, progress=progress.append, frame_num=9, sampling_steps=1)
    assert video.shape[1] == 10
    assert progress[-1].num_chunks == 2


def test_same_seed_same_video(pipeline: MultiTalkPipeline) -> None:
    first, again, other = (pipeline.generate(input_data(14), **{**SMALL, "seed": seed}) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_loras_stay_until_others_are_named(pipeline: MultiTalkPipeline) -> None:
    rows, columns = pipeline.models.transformer.get_parameter("blocks.0.self_attn.q.weight").shape
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "blocks.0.self_attn.q.lora_A.weight": torch.randn(4, columns, generator=generator),
        "blocks.0.self_attn.q.lora_B.weight": torch.randn(rows, 4, generator=generator),
    }
    plain = pipeline.generate(input_data(5), **SMALL)
    merged = pipeline.generate(input_data(5), **SMALL, loras=[Lora(weights=tensors, strength=0.8)])
    assert not torch.equal(merged, plain)
    assert torch.equal(pipeline.generate(input_data(5), **SMALL), merged)
    assert torch.equal(pipeline.generate(input_data(5), **SMALL, loras=()), plain)


def test_global_generator_is_not_seeded(pipeline: MultiTalkPipeline) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    pipeline.generate(input_data(5), **SMALL)
    assert torch.equal(torch.rand(3), expected)


def test_streamed_slices_are_the_generated_video(pipeline: MultiTalkPipeline) -> None:
    slices = list(pipeline.stream(request_of(18, 18), options_of(pipeline.config)))
    assert torch.equal(torch.cat(slices, dim=1), pipeline.generate(input_data(18, 18), **SMALL))


def test_unfinished_stream_does_not_affect_the_next_request(pipeline: MultiTalkPipeline) -> None:
    expected = pipeline.generate(input_data(14), **SMALL)
    unfinished = pipeline.stream(request_of(18, 18), options_of(pipeline.config, seed=9))
    next(unfinished)
    assert torch.equal(pipeline.generate(input_data(14), **SMALL), expected)


def test_cancelled_request_does_not_affect_the_next_one(pipeline: MultiTalkPipeline) -> None:
    class CancelError(Exception):
        pass

    def cancel(progress: Progress) -> None:
        if progress.stage == "denoise":
            raise CancelError

    expected = pipeline.generate(input_data(14), **SMALL)
    with pytest.raises(CancelError):
        pipeline.generate(input_data(9), **SMALL, progress=cancel)
    assert torch.equal(pipeline.generate(input_data(14), **SMALL), expected)


def test_progress_reports_stage_chunk_and_step(pipeline: MultiTalkPipeline) -> None:
    reports: list[tuple[str, int, int, int, int]] = []
    pipeline.generate(
        input_data(12),
        **SMALL,
        progress=lambda p: reports.append((p.stage, p.chunk, p.num_chunks, p.step, p.num_steps)),
    )
    chunk = [("condition", 1, 1), ("denoise", 1, 2), ("denoise", 2, 2), ("decode", 1, 1)]
    expected = [("prepare", 1, 2, 1, 1)]
    expected += [(stage, k, 2, step, steps) for k in (1, 2) for stage, step, steps in chunk]
    assert reports == expected


def test_given_layout_is_used(pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    request, options = request_of(9, 9), options_of(pipeline.config)
    expected = torch.cat(list(pipeline.stream(request, options)), dim=1)
    request = replace(request, layout=pipeline.resolve_layout(request, options))
    monkeypatch.setattr("wan.multitalk.layout_image", lambda *_: pytest.fail("the layout was computed again"))
    assert torch.equal(torch.cat(list(pipeline.stream(request, options)), dim=1), expected)


def test_speech_prompt_and_image_change_the_video(pipeline: MultiTalkPipeline) -> None:
    base = pipeline.generate(input_data(9), **SMALL)
    other_speech = {**input_data(9), "cond_audio": {"person1": speech(9, seed=5)}}
    other_image = {**input_data(9), "cond_image": image().rotate(180)}
    for changed in (other_speech, other_image, {**input_data(9), "prompt": "goodbye"}):
        assert not torch.allclose(pipeline.generate(changed, **SMALL), base, atol=1e-4)


@pytest.mark.parametrize("cache", [{"cache": "magcache"}, {"guidance_reuse": True}, {"teacache_thresh": 1e9}])
def test_caches_change_the_video_and_skip_forwards(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch, cache: dict[str, Any]
) -> None:
    evaluations: list[int] = []
    forward_passes = pipeline.models.transformer.forward_passes

    def counted(x: Any, time: Any, rotary_emb: Any, contexts: Sequence[Context], *parallel: Any) -> list[Tensor]:
        evaluations.append(len(contexts))
        return forward_passes(x, time, rotary_emb, contexts, *parallel)

    monkeypatch.setattr(pipeline.models.transformer, "forward_passes", counted)
    long = {**SMALL, "sampling_steps": 12}
    exact = pipeline.generate(input_data(9), **long, cache="none")
    assert sum(evaluations) == 12 * 2
    evaluations.clear()
    short = pipeline.generate(input_data(9), **long, **cache)
    assert sum(evaluations) < 12 * 2
    assert not torch.equal(short, exact)


def test_invalid_argument_is_named_in_the_error(pipeline: MultiTalkPipeline) -> None:
    with pytest.raises(ValueError, match="'portrait-480'"):
        pipeline.generate(input_data(9), size_buckget="portrait-480")
    with pytest.raises(ValueError, match="size class is '1080'"):
        pipeline.generate(input_data(9), size_buckget="multitalk-1080")
    with pytest.raises(ValueError, match="frame_num is 10"):
        pipeline.generate(input_data(9), frame_num=10)


def test_embeddings_of_another_width_are_an_error(pipeline: MultiTalkPipeline) -> None:
    wrong = {**input_data(9), "cond_audio": {"person1": torch.randn(9, 12, 768)}}
    with pytest.raises(ValueError, match=r"\(9, 12, 768\).*4 x 64"):
        pipeline.generate(wrong, **SMALL)
