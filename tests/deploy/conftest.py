"""One warm engine with the built-in model, files to send, and a bucket."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from deploy.runner import Runner
from deploy.service import Service
from src.storage.fetcher import make_fetcher
from src.storage.settings import read_settings
from tests.conftest import ROOT
from tests.predict.conftest import MODEL
from tests.predict.media_files import plain, uri, voice
from tests.src.storage.store import LocalStore, local_store

SMALL = {"num_frames": 3, "sampling_steps": 2}
"""What makes a request cheap, in the predictor's terms."""


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """A worker that is made within a test chooses how logs look, by a variable; no test after it shall see that."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def environ(trained_folder: Path) -> dict[str, str]:
    """What the operator sets for the small model."""
    return {"MULTITALK_MODEL": MODEL, "MODEL_PATH": str(trained_folder), "OMP_NUM_THREADS": "1", "MAX_SECONDS": "30"}


@pytest.fixture(scope="package")
def engine(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Loaded once for all tests of this folder; in the end no file of theirs may be left."""
    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(scratch))
        for name, value in environ.items():
            patch.setenv(name, value)
        engine = Runner()
        engine.load()
        yield engine
    assert [path.name for path in scratch.iterdir()] == []


@pytest.fixture
def service(engine: Runner) -> Service:
    """Without a bucket."""
    return Service(engine=engine, inputs=make_fetcher(read_settings({})))


@pytest.fixture(scope="package")
def shared_store() -> Iterator[LocalStore]:
    with local_store() as store:
        for name, data in {"multi1.png": plain(), "1.wav": voice(), "2.wav": voice()}.items():
            store.client().put_object(Bucket="talks", Key=name, Body=data)
        yield store


@pytest.fixture
def store(shared_store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A bucket with a picture and two voices, and the variables that lead to it."""
    for name, value in shared_store.environ().items():
        monkeypatch.setenv(name, value)
    return shared_store


@pytest.fixture
def stored(engine: Runner, store: LocalStore) -> Service:
    """With the bucket."""
    return Service(engine=engine, inputs=make_fetcher(read_settings(store.environ())))


def first_form(**fields: Any) -> dict[str, Any]:
    """A cheap request of RunPod's first form."""
    cheap = {"reference_image": uri(plain()), "audio_1": uri(voice()), "num_frames": 5, "sampling_steps": 2}
    cheap |= {"turbo": True}
    return {name: value for name, value in (cheap | fields).items() if value is not None}


def child_environment(environ: dict[str, str], **more: str) -> dict[str, str]:
    """For a server of its own."""
    return {**os.environ, **environ, **more}


@pytest.fixture
def run() -> Callable[[str], str]:
    """What a program prints, run in a process of its own."""

    def printed(program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return printed
