"""Long videos of `generate` lie in a file: the same frames, without their bytes in memory."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from wan import video_buffer
from wan.video_buffer import allocate_video


def resident_bytes(tensor: Tensor) -> int:
    """How much of the memory map that holds a tensor is in memory."""
    for mapping in Path("/proc/self/smaps").read_text().split("VmFlags:"):
        for line in mapping.splitlines():
            first, _, last = line.split(" ")[0].partition("-")
            if last and "/" in line and int(first, 16) <= tensor.data_ptr() < int(last, 16):
                (rss,) = [int(row.split()[1]) for row in mapping.splitlines() if row.startswith("Rss:")]
                return 1024 * rss
    raise AssertionError("the tensor is in no mapped file")


def test_long_videos_take_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(video_buffer, "MAX_IN_MEMORY", 10**6)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    video, release = allocate_video(40, 128, 256)
    expected = torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    for start in range(0, 40, 4):
        video[:, start : start + 4] = expected[:, start : start + 4]
        assert resident_bytes(video) > 0
        release()
        assert resident_bytes(video) == 0
    assert torch.equal(video, expected)
    assert list(tmp_path.iterdir()) == []


def test_short_videos_stay_in_memory() -> None:
    video, release = allocate_video(5, 16, 32)
    release()
    assert (video.shape, video.dtype) == ((3, 5, 16, 32), torch.float32)
    with pytest.raises(AssertionError, match="no mapped file"):
        resident_bytes(video)


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video_buffer, "MAX_IN_MEMORY", 10)
    monkeypatch.setattr(os, "posix_fallocate", fail)
    video, _ = allocate_video(5, 16, 32)
    video.zero_()
    assert "is kept in memory" in caplog.text
    assert "No space left on device" in caplog.text
