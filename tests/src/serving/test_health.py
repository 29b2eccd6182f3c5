"""What makes the process unhealthy, and healthy again."""

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.serving.health import MIN_FREE_BYTES, Health
from tests.waiting import wait_until


class Device:
    """A probe that fails while the device is dead."""

    def __init__(self) -> None:
        self.dead = False
        self.probes = 0

    def __call__(self) -> None:
        self.probes += 1
        if self.dead:
            raise RuntimeError("CUDA error: unspecified launch failure")


def test_a_dead_device_is_a_fault_until_it_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    health = Health(device, tmp_path)
    assert health.is_healthy
    device.dead = True
    health.check()
    health.check()
    assert not health.is_healthy
    assert "launch failure" in health.faults["device"]
    assert sum("unhealthy" in record.message for record in caplog.records) == 1
    device.dead = False
    health.check()
    assert health.is_healthy


def test_the_thread_checks_and_asking_does_not(tmp_path: Path) -> None:
    device = Device()
    health = Health(device, tmp_path, interval_s=0.01)
    health.watch()
    device.dead = True
    wait_until(lambda: not health.is_healthy)
    health.stop()
    probes = device.probes
    assert not any(health.is_healthy for _ in range(1000))
    assert device.probes - probes <= 1


def test_a_check_that_hangs_is_a_fault(tmp_path: Path) -> None:
    hangs, answers = threading.Event(), threading.Event()
    now = 0.0

    def probe() -> None:
        if not answers.is_set() and threading.current_thread().name == "health":
            hangs.set()
            answers.wait(120)

    health = Health(probe, tmp_path, interval_s=0.01, stale_after_s=60, clock=lambda: now)
    health.watch()
    assert hangs.wait(120)
    assert health.is_healthy
    now = 61.0
    assert not health.is_healthy
    answers.set()
    wait_until(lambda: health.is_healthy)
    health.stop()


def test_a_read_only_disk_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health(Device(), tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)
    health.check()
    assert health.faults["disk"] == f"{tmp_path} cannot be written to"


def test_a_full_disk_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=MIN_FREE_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    health = Health(lambda: None, tmp_path)
    assert not health.is_healthy
    assert "500 MB" in health.faults["disk"]
    usage.free = MIN_FREE_BYTES
    health.check()
    assert health.is_healthy


def test_a_missing_folder_is_a_fault(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    health = Health(lambda: None, folder)
    assert str(folder) in health.faults["disk"]
    folder.mkdir()
    health.check()
    assert health.is_healthy


def test_other_faults_stay_until_they_are_cleared(tmp_path: Path) -> None:
    health = Health(lambda: None, tmp_path)
    health.set_fault("result", "the last video had NaN or Inf in its frames")
    health.check()
    assert not health.is_healthy
    health.set_fault("result", None)
    assert health.is_healthy
