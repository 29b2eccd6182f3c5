"""A request that will not be done in time, or that is given up, stops early and leaves nothing."""

import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import predict
from app.settings import read_settings
from predict import Predictor
from src.request import RawInputs, load_inputs
from src.serving.eta import TimeLimitError
from src.serving.timing import StageTimer
from tests.predict.conftest import MODEL
from tests.predict.uploads import plain, voice


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTITALK_MODEL", MODEL)
        patch.setattr(Predictor, "warm_up", lambda self: None)
        found = Predictor()
        found.setup()
    return found


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process puts its temporary files."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return scratch


def make(predictor: Predictor, folder: Path, *, stages: StageTimer, **options: Any) -> Path:
    """A video of 57 frames in two chunks of one step, through everything that comes after the inputs."""
    (folder / "picture.png").write_bytes(plain())
    (folder / "voice.wav").write_bytes(voice())
    uploads = RawInputs(
        image=folder / "picture.png",
        first_audio=folder / "voice.wav",
        second_audio=None,
        num_frames=57,
        person_boxes=None,
        audio_mode="add",
        audio_start=0.0,
        audio_duration=None,
    )
    sampling = {"size_class": "480", "turbo": True, "preset_name": "fast", "sampling_steps": 1, "seed": 1, **options}
    chosen = predictor.choose_options(**sampling)
    job = predictor.plan(load_inputs(uploads, predictor.settings.limits), uploads, "hello", fps=25, options=chosen)
    return predictor.make_movie(job, stages, predict.time.perf_counter())


def nothing_is_left(scratch: Path) -> bool:
    return not any(scratch.iterdir()) and all(thread.name != "encoder" for thread in threading.enumerate())


def test_too_long_is_said_after_the_first_steps(
    predictor: Predictor, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "settings", read_settings({"MULTITALK_MODEL": MODEL, "MAX_RUNTIME": "5"}))
    stages = StageTimer()
    with pytest.raises(TimeLimitError, match="5 s are allowed"):
        make(predictor, tmp_path, stages=stages, sampling_steps=1000)
    assert stages.counts["denoise"] < 50
    assert not stages.counts["decode"]
    assert nothing_is_left(scratch)


def test_given_up_in_the_second_chunk(
    predictor: Predictor, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class GivenUpError(BaseException):
        """As the service stops a request: no Exception."""

    seen: list[str] = []

    class Interrupted(StageTimer):
        def mark(self, stage: str) -> None:
            super().mark(stage)
            if self.counts["condition"] == 2:
                seen.extend(thread.name for thread in threading.enumerate())
                seen.extend(path.suffix for path in scratch.rglob("*"))
                raise GivenUpError

    with pytest.raises(GivenUpError):
        make(predictor, tmp_path, stages=Interrupted())
    assert {"encoder", ".part"} <= set(seen)
    assert nothing_is_left(scratch)


def test_a_request_in_time(predictor: Predictor, scratch: Path, tmp_path: Path) -> None:
    stages = StageTimer()
    path = make(predictor, tmp_path, stages=stages)
    assert path.is_file()
    assert stages.counts["encode"] == 2
    predictor.remove_last_output()
    assert nothing_is_left(scratch)
