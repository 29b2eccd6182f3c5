"""Resizing a finished video."""

from pathlib import Path

import av
import numpy as np
import pytest

from src.media.video.resize import resize_video
from src.media.video.writer import VideoWriter

NUM_FRAMES = 25


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    with VideoWriter(path, width=64, height=64, num_frames=NUM_FRAMES) as writer:
        writer.write(np.zeros((NUM_FRAMES, 64, 64, 3), np.uint8))
    return path


def test_every_frame_has_the_new_size(video: Path, tmp_path: Path) -> None:
    resize_video(video, tmp_path / "resized.mp4", (32, 48))
    with av.open(tmp_path / "resized.mp4") as resized:
        assert [(frame.width, frame.height) for frame in resized.decode(video=0)] == [(32, 48)] * NUM_FRAMES


def test_resizing_can_be_cancelled(video: Path, tmp_path: Path) -> None:
    def cancel() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resize_video(video, tmp_path / "resized.mp4", (32, 48), cancel)
