"""A request on any platform: limits, cancellation, error messages."""

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.generator import Output
from deploy.runner import Runner
from deploy.service import Paths, Service, crop_to_aspect, error_message
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
        ({"person_masks": "not fetched"}, {}, "person_masks is 'not fetched'; a list is needed"),
        (
            {"lora_files": ["not fetched"]},
            {},
            "lora_files is given, but this server takes only LoRAs that the operator",
        ),
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


def test_every_file_of_a_list_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, list[bytes]] = {}

    def run(_: Runner, inputs: dict[str, Any], *__: Any) -> Output:
        seen.update({name: [path.read_bytes() for path in inputs[name]] for name in ("person_masks", "lora_files")})
        return Output(path=tmp_path / "made.mp4", metrics={})

    monkeypatch.setattr(Runner, "run", run)
    allowed = Service(runner=Runner(), fetcher=make_fetcher(read_settings({"MULTITALK_LORA_FILES": "1"})))
    files = {"image": uri(plain()), "first_audio": uri(voice()), "lora_files": [uri(b"three")]}
    context = RequestContext(request_id="r")
    allowed.process({**files, "person_masks": [uri(b"one"), uri(b"two")]}, {}, context, lambda _: None)
    assert seen == {"person_masks": [b"one", b"two"], "lora_files": [b"three"]}
    with pytest.raises(InputError, match="lora_files has 9 files; at most 8"):
        process(allowed, {**files, "lora_files": ["x"] * 9}, context)


def test_masks_are_cropped_with_the_image(tmp_path: Path) -> None:
    """A mask of half the image's size; the crop to 1:2 keeps the columns 50 to 149 of 200."""
    Image.new("RGB", (200, 200), "gray").save(tmp_path / "image.png")
    mask = Image.new("L", (100, 100))
    mask.paste(255, (50, 0, 100, 100))
    mask.save(tmp_path / "mask.png")
    paths: Paths = {"image": tmp_path / "image.png", "person_masks": [tmp_path / "mask.png"]}
    cropped = crop_to_aspect(paths, (64, 128), tmp_path)
    assert isinstance(cropped["image"], Path)
    assert isinstance(cropped["person_masks"], list)
    assert Image.open(cropped["image"]).size == (100, 200)
    with Image.open(cropped["person_masks"][0]) as image:
        assert (image.size, image.getbbox()) == ((100, 200), (50, 0, 100, 200))
    Image.new("L", (100, 50), 255).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"person_masks \(number 1\) has 100 x 50 pixels; the image's 200 x 200"):
        crop_to_aspect(paths, (64, 128), tmp_path)


@pytest.mark.parametrize("kind", [InputError, ValidationError, StorageError, TimeLimitError])
def test_expected_errors_are_returned_and_not_logged(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    assert error_message(kind("this is why")) == "this is why"
    assert caplog.records == []


def test_unexpected_errors_are_logged_with_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert error_message(KeyError("inside")) == "KeyError: 'inside'"
    assert caplog.records[0].exc_info
