"""VideoGenerator without Cog: metrics, the time limit, and what is left after a failure."""

import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.generator import VideoGenerator, memory_advice
from src.audio_analysis.long_audio import embed_speech
from src.errors import InputError
from src.serving.cancellation import CancelledError, RequestContext, request_context
from src.serving.eta import TimeLimitError
from src.serving.validation import ValidationError
from tests.predict.conftest import MODEL
from tests.predict.media_files import plain, voice


@pytest.fixture(scope="module")
def generator() -> VideoGenerator:
    return VideoGenerator.from_environment({"MULTITALK_MODEL": MODEL})


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    """A video of 12 frames in one chunk of two steps."""
    (tmp_path / "image.png").write_bytes(plain())
    (tmp_path / "voice.wav").write_bytes(voice())
    return {
        "image": tmp_path / "image.png",
        "first_audio": tmp_path / "voice.wav",
        "num_frames": 12,
        "sampling_steps": 2,
        "seed": 1,
    }


@pytest.fixture
def output_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is also this process's folder for temporary files."""
    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("multitalk-14B", "multitalk-14B needs an NVIDIA GPU.* set MULTITALK_MODEL=multitalk-puppet"),
        ("multitalk-puppet", "MODEL_PATH is '{path}'.*no weights of multitalk-puppet.*{path}/Wan2.1-I2V-puppet"),
    ],
)
def test_without_a_gpu_or_weights_there_is_no_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=words.format(path=tmp_path)):
        VideoGenerator.from_environment({"MULTITALK_MODEL": model, "MODEL_PATH": str(tmp_path)})


def nothing_is_left(folder: Path) -> bool:
    return not any(folder.iterdir()) and all(thread.name != "encoder" for thread in threading.enumerate())


def test_output_and_metrics(generator: VideoGenerator, inputs: dict[str, Any], output_dir: Path) -> None:
    output = generator.generate(inputs, output_dir)
    assert list(output_dir.iterdir()) == [output.path]
    assert (output.metrics["model"], output.metrics["seed"], output.metrics["frames"]) == (MODEL, 1, 12)
    stages = {name.removeprefix("seconds.") for name in output.metrics if name.startswith("seconds.")}
    assert stages == {"inputs", "speech", "prepare", "condition", "denoise", "decode", "encode", "finish", "total"}
    assert output.speech_shape[0] == 12


def test_defaults_of_the_schema_are_filled_in(
    generator: VideoGenerator, inputs: dict[str, Any], output_dir: Path
) -> None:
    output = generator.generate(inputs | {"fps": None, "preview_speakers": True}, output_dir)
    assert output.metrics["frames"] == 25, "the preview's"
    assert output.speech_shape == ()


@pytest.mark.parametrize("wrong", [{"sampling_steps": 1}, {"preset": "best"}, {"speed": 2}, {"image": None}])
def test_invalid_inputs(
    generator: VideoGenerator, inputs: dict[str, Any], output_dir: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        generator.generate(inputs | wrong, output_dir)
    assert nothing_is_left(output_dir)


def test_time_limit_stops_after_the_first_steps(
    generator: VideoGenerator, inputs: dict[str, Any], output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "settings", replace(generator.settings, max_runtime=0.001))
    messages: list[str] = []
    context = RequestContext(request_id="limited", on_progress=messages.append)
    with pytest.raises(TimeLimitError, match="MAX_RUNTIME"), request_context(context):
        generator.generate(inputs | {"sampling_steps": 100}, output_dir)
    assert 0 < len([message for message in messages if message.startswith("denoise")]) < 50
    assert not [message for message in messages if message.startswith("decode")]
    assert nothing_is_left(output_dir)


def test_cancelled_in_the_second_chunk(generator: VideoGenerator, inputs: dict[str, Any], output_dir: Path) -> None:
    seen: set[str] = set()

    def on_progress(message: str) -> None:
        if "chunk 2" in message:
            seen.update(thread.name for thread in threading.enumerate())
            seen.update(path.suffix for path in output_dir.rglob("*"))
            context.cancelled.set()

    context = RequestContext(request_id="cancelled", on_progress=on_progress)
    with pytest.raises(CancelledError), request_context(context):
        generator.generate(inputs | {"num_frames": 57}, output_dir)
    assert {"encoder", ".part"} <= seen
    assert nothing_is_left(output_dir)
    assert generator.generate(inputs, output_dir).metrics["frames"] == 12


def test_cancel_stops_before_the_next_step(generator: VideoGenerator, inputs: dict[str, Any], output_dir: Path) -> None:
    steps: list[str] = []

    def on_progress(message: str) -> None:
        if message.startswith("denoise"):
            steps.append(message)
            if len(steps) == 3:
                context.cancelled.set()

    context = RequestContext(request_id="cancelled", on_progress=on_progress)
    with pytest.raises(CancelledError), request_context(context):
        generator.generate(inputs | {"sampling_steps": 100}, output_dir)
    assert len(steps) == 3
    assert nothing_is_left(output_dir)


def test_warm_up_imports_what_a_request_needs(
    generator: VideoGenerator, inputs: dict[str, Any], output_dir: Path
) -> None:
    generator.warm_up()
    before = {name for name in sys.modules if name.partition(".")[0] in {"torch", "transformers", "diffusers", "wan"}}
    generator.generate(inputs, output_dir)
    after = {name for name in sys.modules if name.partition(".")[0] in {"torch", "transformers", "diffusers", "wan"}}
    assert after == before


def test_input_error_leaves_nothing(generator: VideoGenerator, inputs: dict[str, Any], output_dir: Path) -> None:
    with pytest.raises(InputError, match="audio_start"):
        generator.generate(inputs | {"audio_start": 9}, output_dir)
    assert nothing_is_left(output_dir)


def test_nan_frames_fail_and_mark_the_model_unhealthy(
    generator: VideoGenerator, inputs: dict[str, Any], output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generator.health.is_healthy

    def broken(*_: Any) -> Iterator[torch.Tensor]:
        yield torch.full((3, 3, 64, 128), torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(generator.pipeline, "stream", broken)
        with pytest.raises(RuntimeError, match="NaN"):
            generator.generate(inputs, output_dir)
    assert not generator.health.is_healthy
    generator.generate(inputs | {"num_frames": 1}, output_dir)
    assert generator.health.is_healthy


@pytest.mark.parametrize(
    ("resolution", "precision", "advice"),
    [
        ("720p", None, "resolution 480p needs less"),
        ("720p", "fp8", "resolution 480p needs less"),
        ("480p", None, "weights in fp8 need less (MULTITALK_DTYPE, which the operator sets)"),
        ("480p", "fp8", "other programs on that GPU leave too little"),
    ],
)
def test_advice_for_too_little_gpu_memory_is_possible_to_follow(
    generator: VideoGenerator, resolution: str, precision: Any, advice: str
) -> None:
    settings = replace(generator.settings, precision=precision)
    assert memory_advice(settings, {"resolution": resolution}) == advice


def test_speech_is_encoded_after_the_networks_have_moved(
    generator: VideoGenerator, inputs: dict[str, Any], output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, the plan of the last request could leave no room for it."""
    order: list[str] = []
    plan_for = generator.pipeline.offload.plan_for

    def record_plan(*args: Any) -> None:
        order.append("plan")
        plan_for(*args)

    def record_speech(*args: Any) -> Any:
        order.append("speech")
        return embed_speech(*args)

    monkeypatch.setattr(generator.pipeline.offload, "plan_for", record_plan)
    monkeypatch.setattr("app.generator.embed_speech", record_speech)
    generator.generate(inputs, output_dir)
    assert order == ["plan", "speech", "plan"]
