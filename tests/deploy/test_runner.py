"""The warm predictor outside of Cog's server."""

from pathlib import Path
from typing import Any

import pytest

from deploy.runner import Runner
from src.errors import InputError
from src.serving.cancellation import CancelledError, RequestContext
from src.serving.validation import ValidationError
from tests.conftest import ROOT
from tests.deploy.conftest import SMALL
from tests.predict.media_files import plain, voice


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "image").write_bytes(plain())
    (tmp_path / "sound").write_bytes(voice())
    return {"image": tmp_path / "image", "first_audio": tmp_path / "sound", **SMALL}


def test_a_video_with_its_metrics(engine: Runner, files: dict[str, Any], tmp_path: Path) -> None:
    output = engine.run({**files, "seed": 5}, tmp_path, RequestContext(request_id="r"))
    assert output.path.parent == tmp_path
    assert (output.metrics["seed"], output.metrics["frames"]) == (5, 3)
    assert output.metrics["speech_shape"][0] == 10
    assert output.metrics["seconds.denoise"] > 0
    assert not engine.busy
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    stages = [name.removeprefix("seconds.") for name in output.metrics if name.startswith("seconds.")]
    assert [name for name in stages if f"`{name}`" not in page] == []


def test_errors_come_before_the_model(files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="sampling_steps is 1"):
        Runner().run({**files, "sampling_steps": 1}, tmp_path, RequestContext(request_id="r"))


def test_after_an_error_the_next_request_is_served(engine: Runner, files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="audio_start is 9 s"):
        engine.run({**files, "audio_start": 9}, tmp_path, RequestContext(request_id="r"))
    follower = RequestContext(request_id="stopped")
    follower.cancelled.set()
    with pytest.raises(CancelledError):
        engine.run(files, tmp_path, follower)
    assert engine.run(files, tmp_path, RequestContext(request_id="r")).metrics["frames"] == 3
