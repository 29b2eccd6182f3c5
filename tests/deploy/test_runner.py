"""The shared model: metrics, and requests after failed and cancelled ones."""

from pathlib import Path
from typing import Any

import pytest

from deploy.runner import Runner
from src.errors import InputError
from src.serving.cancellation import CancelledError, RequestContext
from tests.deploy.conftest import SMALL
from tests.predict.media_files import plain, voice


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "image").write_bytes(plain())
    (tmp_path / "audio").write_bytes(voice())
    return {"image": tmp_path / "image", "first_audio": tmp_path / "audio", **SMALL}


def test_video_and_metrics(runner: Runner, inputs: dict[str, Any], tmp_path: Path) -> None:
    output = runner.run({**inputs, "seed": 5}, tmp_path, RequestContext(request_id="r"))
    assert output.path.parent == tmp_path
    assert (output.metrics["seed"], output.metrics["frames"]) == (5, 3)
    assert output.metrics["speech_shape"][0] == 10
    assert output.metrics["seconds.denoise"] > 0


def test_next_request_is_served_after_an_error_and_a_cancellation(
    runner: Runner, inputs: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="audio_start is 9 s"):
        runner.run({**inputs, "audio_start": 9}, tmp_path, RequestContext(request_id="r"))
    context = RequestContext(request_id="cancelled")
    context.cancelled.set()
    with pytest.raises(CancelledError):
        runner.run(inputs, tmp_path, context)
    assert runner.run(inputs, tmp_path, RequestContext(request_id="r")).metrics["frames"] == 3
