"""Frames are written in order, in a thread that ends after every outcome."""

import threading
import time
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


def test_leaving_waits_until_all_frames_are_written() -> None:
    written: list[int] = []

    def write(frames_FHWC: np.ndarray) -> None:
        written.extend(frames_FHWC[:, 0, 0, 0].tolist())

    with ThreadedWriter(write) as writer:
        for first in range(0, 60, 20):
            writer.write(frames(*range(first, first + 20)))
    assert written == list(range(60))
    assert not encoders()


def test_write_blocks_while_the_queue_is_full() -> None:
    queue_full, released = threading.Event(), threading.Event()
    accepted: list[int] = []

    def call(writer: ThreadedWriter) -> None:
        for number in range(4):
            writer.write(frames(number))
            accepted.append(number)
            if len(accepted) == 2:
                queue_full.set()

    def block(_: np.ndarray) -> None:
        released.wait()

    with ThreadedWriter(block, queue_size=1) as writer:
        caller = threading.Thread(target=call, args=(writer,))
        caller.start()
        assert queue_full.wait(60)
        caller.join(0.1)
        assert accepted == [0, 1]  # one is being written, one is queued
        released.set()
        caller.join(60)
    assert accepted == [0, 1, 2, 3]


def write_batches(writer: ThreadedWriter, batches: int, length: int = 1, error: BaseException | None = None) -> None:
    """Write some batches of frames, and then raise an error if one is given."""
    with writer:
        for _ in range(batches):
            writer.write(frames(*range(length)))
        if error is not None:
            raise error


def fails(_: np.ndarray) -> None:
    raise EncoderError


def test_error_of_write_is_raised_in_the_caller() -> None:
    for batches in (1, 100):
        with pytest.raises(EncoderError):
            write_batches(ThreadedWriter(fails), batches)
    assert not encoders()


def test_queued_frames_are_dropped_after_an_error() -> None:
    written: list[int] = []
    deadline = time.monotonic() + 60

    def write(frames_FHWC: np.ndarray) -> None:
        while not writer._cancelled:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        written.append(len(frames_FHWC))

    writer = ThreadedWriter(write)
    with pytest.raises(KeyboardInterrupt):
        write_batches(writer, batches=2, length=100, error=KeyboardInterrupt())
    assert sum(written) <= BATCH_FRAMES
    assert not encoders()


def test_cancelled_video_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(EncoderError), VideoWriter(path, width=16, height=16, num_frames=40) as video:
        write_batches(ThreadedWriter(video.write), batches=1, length=20, error=EncoderError())
    assert list(tmp_path.iterdir()) == []
    with VideoWriter(path, width=16, height=16, num_frames=40) as video, ThreadedWriter(video.write) as writer:
        writer.write(frames(*range(20)))
        writer.write(frames(*range(20)))
    assert list(tmp_path.iterdir()) == [path]


def test_leaving_without_frames_starts_no_thread() -> None:
    with ThreadedWriter(fails):
        assert not encoders()
    assert not encoders()
