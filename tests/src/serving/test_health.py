"""What makes a predictor unhealthy, and well again."""

import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.serving.health import MIN_FREE_BYTES, Health


class Device:
    """Dies and comes back as told."""

    def __init__(self) -> None:
        self.dead = False
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1
        if self.dead:
            raise RuntimeError("CUDA error: unspecified launch failure")


def test_a_device_that_dies_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    health = Health(device, tmp_path)
    assert health.well
    device.dead = True
    health.look()
    health.look()
    assert not health.well
    assert "launch failure" in health.faults["device"]
    assert sum("unhealthy" in record.message for record in caplog.records) == 1
    device.dead = False
    health.look()
    assert health.well


def test_it_looks_by_itself_and_answers_from_memory(tmp_path: Path) -> None:
    device = Device()
    health = Health(device, tmp_path, every_s=0.01)
    health.watch()
    device.dead = True
    deadline = time.monotonic() + 5
    while health.well:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    asked = device.asked
    health.every_s = 1000
    started = time.monotonic()
    assert not any(health.well for _ in range(1000))
    assert time.monotonic() - started < 0.1
    assert device.asked - asked <= 2


def test_a_device_that_hangs(tmp_path: Path) -> None:
    hanging, release = threading.Event(), threading.Event()

    def probe() -> None:
        if hanging.is_set():
            release.wait(20)

    health = Health(probe, tmp_path, every_s=0.01, patience_s=0.5)
    health.watch()
    assert health.well
    hanging.set()
    time.sleep(0.8)
    assert not health.well
    hanging.clear()
    release.set()
    time.sleep(0.3)
    assert health.well
    health.every_s = 1000


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=MIN_FREE_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    health = Health(lambda: None, tmp_path)
    assert not health.well
    assert "500 MB left; 500 MB are needed" in health.faults["disk"]
    usage.free = MIN_FREE_BYTES
    health.look()
    assert health.well


def test_a_disk_that_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    health = Health(lambda: None, folder)
    assert not health.well
    assert "cannot be used (No such file" in health.faults["disk"]
    folder.mkdir()
    health.look()
    assert health.well


def test_a_senseless_result(tmp_path: Path) -> None:
    health = Health(lambda: None, tmp_path)
    health.note("result", "the last video held values that are no numbers")
    health.look()
    assert not health.well
    health.note("result", None)
    assert health.well
