"""The lock of a folder."""

import errno
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from src.weights import lock
from src.weights.errors import WeightsError


def test_lock_is_exclusive_and_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    acquired = threading.Event()

    def wait() -> None:
        with lock.exclusive(tmp_path):
            acquired.set()

    thread = threading.Thread(target=wait)
    with lock.exclusive(tmp_path):
        thread.start()
        while "waiting for another process" not in caplog.text:
            assert not acquired.wait(0.01)
    assert acquired.wait(60)
    thread.join()


def test_volume_without_locks_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", fail)
    with pytest.raises(WeightsError, match="has no file locks"), lock.exclusive(tmp_path):
        pass
