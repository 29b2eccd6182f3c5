"""A disk that is full or read-only, at every file and folder that a request makes."""

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cog_inputs import fetched_inputs
from app.generator import Output, VideoGenerator
from src.serving.cog.prediction_request import FETCH_PREFIX
from src.serving.temp_dirs import DiskError, OwnedDir, disk_errors, owned_dir
from tests.predict.media_files import plain, uri, voice


class Fault:
    """Counts what is opened for writing or made below `folder`; number `index` of them fails with `number`."""

    folder: Path | None = None
    index = -1
    number = errno.ENOSPC
    count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if (
            self.folder is None
            or event not in {"open", "os.mkdir"}
            or not str(arguments[0]).startswith(str(self.folder))
        ):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        self.count += 1
        if self.count - 1 == self.index:
            raise OSError(self.number, os.strerror(self.number), str(arguments[0]))


fault = Fault()
sys.addaudithook(fault)


@pytest.fixture(scope="module")
def generator() -> VideoGenerator:
    return VideoGenerator.from_environment({"MULTITALK_MODEL": "multitalk-puppet"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    fault.folder = None


def request(generator: VideoGenerator, folder: Path, **inputs: Any) -> Output:
    """One request as `predict.py` serves it."""
    files = {"image": FETCH_PREFIX + uri(plain()), "first_audio": FETCH_PREFIX + uri(voice())}
    inputs = {**files, "num_frames": 1, "sampling_steps": 2, "seed": 1, **inputs}
    with disk_errors(), owned_dir("output-", folder) as output_dir, fetched_inputs(inputs) as values:
        return generator.generate(values, output_dir)


@pytest.mark.parametrize("inputs", [{}, {"preview_speakers": True}], ids=["video", "preview"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT], ids=["full", "read-only", "quota"])
def test_one_sentence_and_the_next_request_succeeds(
    generator: VideoGenerator, folder: Path, inputs: dict[str, Any], number: int
) -> None:
    fault.folder, fault.number, fault.index = folder, number, -1
    fault.count = 0
    request(generator, folder, **inputs)
    total = fault.count
    assert total >= 4
    for index in range(total):
        fault.index, fault.count = index, 0
        with pytest.raises(
            DiskError, match=r"^the server cannot write temporary files \([A-Z][a-z -]+\); try again later"
        ):
            request(generator, folder, **inputs)
        assert list(folder.iterdir()) == []
    fault.index = -1
    request(generator, folder, **inputs)


def test_other_faults_of_files_are_not_the_disks() -> None:
    with pytest.raises(FileNotFoundError), disk_errors():
        Path("/none/x").write_bytes(b"")


def test_a_folder_that_a_cleaner_has_deleted_is_made_again(tmp_path: Path) -> None:
    owned = OwnedDir("server-", tmp_path)
    owned.path.rmdir()
    owned.restore()
    assert owned.path.is_dir()
    assert owned.path.stat().st_mode & 0o777 == 0o700
    owned.restore()
    owned.remove()
    owned.restore()
    assert list(tmp_path.iterdir()) == []
