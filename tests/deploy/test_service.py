"""A request from beginning to end: what it may bring, when it stops, and what its caller is told."""

import logging
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from deploy.service import Service, error_message
from src.errors import InputError
from src.media.video.resize import resize_video
from src.media.video.writer import VideoWriter
from src.serving.cancellation import CancelledError, RequestContext, request_context
from src.serving.eta import TimeLimitError
from src.serving.validation import ValidationError
from src.storage.errors import StorageError
from tests.predict.media_files import plain, uri, voice


def test_lists_of_files_are_bounded_before_any_is_fetched(service: Service, tmp_path: Path) -> None:
    told: list[str] = []
    media: dict[str, Any] = {"image": uri(plain()), "first_audio": uri(voice()), "person_masks": ["no form"] * 11}
    with pytest.raises(InputError, match="person_masks has 11 files; at most 10 are allowed"):
        service.make(media, {}, tmp_path, RequestContext(request_id="many", on_progress=told.append))
    assert told == []
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_is_stopped_fetches_no_further_file(service: Service, tmp_path: Path) -> None:
    follower = RequestContext(request_id="left", on_progress=lambda _: follower.cancelled.set())
    with pytest.raises(CancelledError):
        service.make({"image": uri(plain()), "first_audio": uri(voice())}, {}, tmp_path, follower)
    assert list(tmp_path.iterdir()) == []


def test_scaling_stops_as_well(tmp_path: Path) -> None:
    movie = tmp_path / "movie.mp4"
    with VideoWriter(movie, width=64, height=64, num_frames=25) as writer:
        writer.write(np.zeros((25, 64, 64, 3), np.uint8))
    resize_video(movie, tmp_path / "finished.mp4", (32, 48))
    with av.open(tmp_path / "finished.mp4") as finished:
        assert [(frame.width, frame.height) for frame in finished.decode(video=0)] == [(32, 48)] * 25
    follower = RequestContext(request_id="left")
    follower.cancelled.set()
    with pytest.raises(CancelledError), request_context(follower):
        resize_video(movie, tmp_path / "other.mp4", (32, 48))


@pytest.mark.parametrize("kind", [InputError, ValidationError, StorageError, TimeLimitError])
def test_what_is_expected_is_told_as_it_stands(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    assert error_message(kind("this is why")) == "this is why"
    assert caplog.records == []


def test_what_nobody_expected_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert error_message(KeyError("inside")) == "KeyError: 'inside'"
    assert caplog.records[0].exc_info
