"""Frames reach the encoder in order, from a thread that ends whatever happens."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.media.video.threaded_writer import BATCH_FRAMES, ThreadedWriter
from src.media.video.writer import VideoWriter


class EncoderError(Exception):
    pass


def frames(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)


def encoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "encoder"]


def test_everything_is_written_in_order_when_it_is_left() -> None:
    written: list[int] = []

    def slow(frames_FHWC: np.ndarray) -> None:
        time.sleep(0.01)
        written.extend(frames_FHWC[:, 0, 0, 0].tolist())

    with ThreadedWriter(slow) as writer:
        for first in range(0, 60, 20):
            writer.write(frames(*range(first, first + 20)))
    assert written == list(range(60))
    assert not encoders()


def test_at_most_so_many_batches_wait() -> None:
    blocked, released = threading.Event(), threading.Event()

    def stuck(_: np.ndarray) -> None:
        blocked.set()
        released.wait()

    handed: list[int] = []

    def call(writer: ThreadedWriter) -> None:
        for number in range(4):
            writer.write(frames(number))
            handed.append(number)

    with ThreadedWriter(stuck, queue_size=1) as writer:
        caller = threading.Thread(target=call, args=(writer,))
        caller.start()
        assert blocked.wait(5)
        caller.join(0.2)
        assert handed == [0, 1]  # one is being written, one waits
        released.set()
        caller.join(5)
    assert handed == [0, 1, 2, 3]


def hand_over(
    write: Callable[[np.ndarray], None], batches: int, length: int = 1, error: BaseException | None = None
) -> None:
    """Some batches of frames, and then perhaps an error."""
    with ThreadedWriter(write) as writer:
        for _ in range(batches):
            writer.write(frames(*range(length)))
        if error is not None:
            raise error


def fails(_: np.ndarray) -> None:
    raise EncoderError


def test_an_error_of_the_encoder_is_the_caller_s() -> None:
    for batches in (1, 100):
        with pytest.raises(EncoderError):
            hand_over(fails, batches)
    assert not encoders()


def test_after_an_error_what_waits_is_dropped() -> None:
    written: list[int] = []

    def slow(frames_FHWC: np.ndarray) -> None:
        time.sleep(0.02)
        written.append(len(frames_FHWC))

    with pytest.raises(KeyboardInterrupt):
        hand_over(slow, batches=2, length=100, error=KeyboardInterrupt())
    assert sum(written) <= 2 * BATCH_FRAMES
    assert not encoders()


def test_a_movie_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(EncoderError), VideoWriter(path, width=16, height=16, num_frames=40) as movie:
        hand_over(movie.write, batches=1, length=20, error=EncoderError())
    assert list(tmp_path.iterdir()) == []
    with VideoWriter(path, width=16, height=16, num_frames=40) as movie, ThreadedWriter(movie.write) as writer:
        writer.write(frames(*range(20)))
        writer.write(frames(*range(20)))
    assert list(tmp_path.iterdir()) == [path]
