"""A request on any platform: limits, cancellation, error messages."""

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.generator import Output
from deploy.runner import Runner
from deploy.service import Service, error_message
from src.errors import InputError
from src.serving.cancellation import CancelledError, RequestContext
from src.serving.eta import TimeLimitError
from src.serving.validation import ValidationError
from src.storage.errors import StorageError
from src.storage.fetcher import make_fetcher
from src.storage.settings import read_settings
from tests.predict.media_files import plain, uri, voice
from tests.src.media.video.video_files import write_video


@pytest.fixture
def unloaded() -> Service:
    """A service whose model must not be needed."""
    return Service(runner=Runner(), fetcher=make_fetcher(read_settings({})))


def process(service: Service, files: dict[str, Any], context: RequestContext, **values: Any) -> None:
    def deliver(_: Output) -> None:
        raise AssertionError

    service.process(files, values, context, deliver)


@pytest.mark.parametrize(
    ("changes", "values", "words"),
    [
        ({}, {"sampling_steps": 1}, "sampling_steps is 1"),
        ({"image": 5}, {}, "image is 5"),
        ({"person_masks": ["not fetched"] * 11}, {}, "person_masks has 11 files; at most 10 are allowed"),
    ],
)
def test_invalid_inputs_are_refused_before_any_file_is_fetched(
    unloaded: Service, changes: dict[str, Any], values: dict[str, Any], words: str
) -> None:
    messages: list[str] = []
    files = {"image": uri(plain()), "first_audio": uri(voice()), **changes}
    with pytest.raises(ValueError, match=words):
        process(unloaded, files, RequestContext(request_id="r", on_progress=messages.append), **values)
    assert messages == []


def test_cancelled_request_fetches_no_further_file(unloaded: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    context = RequestContext(request_id="cancelled", on_progress=lambda _: context.cancelled.set())
    monkeypatch.setattr(type(unloaded.fetcher), "fetch", None)
    with pytest.raises(CancelledError):
        process(unloaded, {"image": uri(plain()), "first_audio": uri(voice())}, context)


def test_warnings_about_the_cropped_image_are_metrics(
    unloaded: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(*_: Any) -> Output:
        return Output(path=video, metrics={"width": 128, "height": 64, "warnings": "another"})

    video = write_video(tmp_path / "made.mp4")
    monkeypatch.setattr(Runner, "run", run)
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png", icc_profile=b"no profile" * 20)
    files = {"image": uri((tmp_path / "image.png").read_bytes()), "first_audio": uri(voice())}
    context = RequestContext(request_id="r")
    metrics = unloaded.process(files, {}, context, lambda output: output.metrics, size=(64, 64))
    assert metrics["warnings"].startswith("image: its color profile is damaged")
    assert metrics["warnings"].endswith("; another")


@pytest.mark.parametrize("kind", [InputError, ValidationError, StorageError, TimeLimitError])
def test_expected_errors_are_returned_and_not_logged(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    assert error_message(kind("this is why")) == "this is why"
    assert caplog.records == []


def test_unexpected_errors_are_logged_with_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert error_message(KeyError("inside")) == "KeyError: 'inside'"
    assert caplog.records[0].exc_info
