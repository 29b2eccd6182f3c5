"""Arguments of `generate` and `stream` that are NaN, Inf or of another type or shape: a ValueError that names them."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.wan.test_multitalk import SMALL, image, pipeline, request_of, speech
from wan import MultiTalkPipeline, multitalk
from wan.conditioning.request import Request
from wan.sampling.options import SamplingOptions
from wan.video_buffer import allocate_video

__all__ = ["pipeline"]


def with_value(value: float) -> torch.Tensor:
    embeddings = speech(9)
    embeddings[5, 0, 1] = value
    return embeddings


SPEECH = [
    (with_value(math.nan), "person1 has NaN or Inf"),
    (with_value(-math.inf), "person1 has NaN or Inf"),
    ([speech(9), with_value(math.nan)], "person2 has NaN or Inf"),
    (with_value(math.nan).numpy(), "person1 has NaN or Inf"),
    (speech(9).int(), "person1 is torch.int32"),
    (speech(9).bool(), "person1 is torch.bool"),
    (speech(9).to(torch.complex64), "person1 is torch.complex64"),
    (speech(9).to_sparse(), "dense tensor"),
    (np.zeros((9, 4, 64), np.int16), "int16; floating point is needed"),
    (np.array([None]), "object; floating point is needed"),
    (speech(9)[0], r"person1 has shape \(4, 64\); frames x layers x width"),
    (speech(9)[:0], "at least 1 frame"),
    (speech(9)[..., 1:], "frames x 4 x 64 is expected"),
    ([[1.0]], r"holds \[1.0\]; tensors or paths"),
    (5, "holds 5; tensors or paths"),
]


@pytest.mark.parametrize(("value", "words"), SPEECH)
def test_speech(pipeline: MultiTalkPipeline, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pipeline.generate({"image": image(), "audio_embeddings": value, "prompt": "x"}, **SMALL)


def test_speech_in_files(pipeline: MultiTalkPipeline, tmp_path: Path) -> None:
    torch.save(with_value(math.nan), tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", np.array(["x"]))
    for name, words in (("a.pt", "has NaN or Inf"), ("b.npy", "cannot be read as one saved tensor|can't convert")):
        data = {"image": image(), "audio_embeddings": str(tmp_path / name), "prompt": "x"}
        with pytest.raises(ValueError, match=words):
            pipeline.generate(data, **SMALL)


def cut_png(folder: Path) -> Path:
    data = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(data, "PNG")
    (folder / "cut.png").write_bytes(data.getvalue()[:1500])
    return folder / "cut.png"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda _: np.full((64, 64, 3), np.nan), r"image is array\(\[\[\[nan, nan, nan\], \[nan.*an image or a path"),
        (lambda _: torch.zeros(3, 64, 64), r"image is tensor"),
        (lambda _: Image.new("F", (64, 64)), "mode 'F'; 8 bits"),
        (lambda _: Image.new("I;16", (64, 64)), "mode 'I;16'; 8 bits"),
        (lambda folder: folder, "an image or a path"),
        (cut_png, "truncated"),
        (lambda _: 5, "image is 5"),
    ],
)
def test_image(pipeline: MultiTalkPipeline, tmp_path: Path, value: Callable[[Path], Any], words: str) -> None:
    data = {"image": value(tmp_path), "audio_embeddings": speech(9), "prompt": "x"}
    with pytest.raises(ValueError, match=words) as caught:
        pipeline.generate(data, **SMALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, "3", True, [1], torch.tensor(3.0)], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        *("shift", "text_guide_scale", "audio_guide_scale", "color_correction_strength", "teacache_thresh"),
        *("magcache_thresh", "apg_momentum", "apg_norm_threshold"),
        *("sampling_steps", "seed", "frame_num", "motion_frame", "max_frames_num"),
    ],
)
def test_numbers(pipeline: MultiTalkPipeline, name: str, value: Any) -> None:
    data = {"image": image(), "audio_embeddings": speech(9), "prompt": "x"}
    with pytest.raises(ValueError, match=rf"^{name} is .*; a (finite|whole) number is needed"):
        pipeline.generate(data, **{**SMALL, name: value})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"turbo": "no"}, "turbo is 'no'"),
        ({"use_apg": 1}, "use_apg is 1"),
        ({"guidance_reuse": "x"}, "guidance_reuse is 'x'"),
        ({"n_prompt": 5}, "negative_prompt is 5"),
        ({"size_buckget": None}, "size_buckget is None"),
        ({"teacache_thresh": -1.0}, "teacache_thresh is -1"),
        ({"apg_norm_threshold": -1.0}, "apg_norm_threshold is -1"),
        ({"sampling_steps": 2.5}, "sampling_steps is 2.5"),
        ({"loras": [Path("x")]}, r"loras holds PosixPath\('x'\); objects Lora"),
        ({"loras": "x"}, "loras holds 'x'"),
        ({"input_data": None}, "input_data is None"),
        ({"input_data": [1]}, r"input_data is \[1\]"),
        *(({"num_frames": value}, "num_frames is") for value in (math.nan, "3", True, 2.5, 0, 99)),
    ],
)
def test_other_arguments(pipeline: MultiTalkPipeline, arguments: dict[str, Any], words: str) -> None:
    data = {"image": image(), "audio_embeddings": speech(9), "prompt": "x"}
    if "num_frames" in arguments:
        data |= arguments
        arguments = {}
    with pytest.raises(ValueError, match=words):
        pipeline.generate(**{"input_data": data, **SMALL, **arguments})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": Image.new("L", (64, 64))}, "mode 'RGB'"),
        ({"image": np.zeros((64, 64, 3), np.uint8)}, "mode 'RGB'"),
        ({"speech": (with_value(math.nan),)}, "speech of person1 has NaN or Inf"),
        ({"speech": (speech(9), with_value(math.inf))}, "speech of person2 has NaN or Inf"),
        ({"speech": (speech(9).int(),)}, "floating point is needed"),
        ({"person_masks": (torch.full((128, 256), math.nan),) * 2}, "the mask of person1 is torch.float32"),
        ({"person_masks": (np.ones((128, 256), bool),) * 2}, "the mask of person1 is array"),
        ({"person_masks": (torch.ones(128, 255, dtype=torch.bool),) * 2}, "the mask of person1 is torch.bool of shape"),
    ],
)
def test_requests(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(request_of(9, 9), **change)


def test_nan_that_the_model_makes_is_no_video(pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(*_: Any) -> Any:
        yield torch.zeros(3, 5, 64, 128)
        yield torch.full((3, 4, 64, 128), math.nan)

    monkeypatch.setattr(MultiTalkPipeline, "stream", stream)
    monkeypatch.setattr(multitalk, "allocate_video", lambda frames, *_: allocate_video(frames, 64, 128))
    with pytest.raises(RuntimeError, match="NaN or Inf from frame 5 on"):
        pipeline.generate({"image": image(), "audio_embeddings": speech(9), "prompt": "x"}, **SMALL)


def test_valid_types_are_equivalent(pipeline: MultiTalkPipeline) -> None:
    data = {"image": image(), "prompt": "x"}
    first = pipeline.generate(data | {"audio_embeddings": speech(9)}, **SMALL)
    array = speech(9).numpy().astype(">f8")
    other = pipeline.generate(
        data | {"audio_embeddings": array}, **{**SMALL, "seed": np.int64(3), "shift": np.float32(3)}
    )
    assert torch.equal(first, pipeline.generate(data | {"audio_embeddings": speech(9).double()}, **SMALL))
    assert other.isfinite().all()


def test_options_are_dataclasses_of_checked_types() -> None:
    kinds = {str(kind) for kind in SamplingOptions.__annotations__.values()}
    assert {kind for kind in kinds if "Literal" not in kind} == {str(kind) for kind in (int, float, bool, str)}
    assert Request.__dataclass_params__.frozen  # type: ignore[attr-defined]
