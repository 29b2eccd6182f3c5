"""One loaded model for every test of this folder, uploads, and a bucket."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from app.generator import Output
from deploy.runner import Runner
from deploy.service import Service
from src.serving.cancellation import RequestContext
from src.storage.fetcher import make_fetcher
from src.storage.settings import read_settings
from tests.conftest import ROOT
from tests.predict.conftest import MODEL
from tests.predict.media_files import plain, uri, voice
from tests.src.storage.local_s3 import LocalS3, local_s3

SMALL = {"num_frames": 3, "sampling_steps": 2}
"""Inputs that make a request cheap."""


@pytest.fixture(autouse=True)
def restored_environment() -> Iterator[None]:
    """Workers set MULTITALK_LOG, which must not reach other tests."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def environ(trained_folder: Path) -> dict[str, str]:
    """Environment variables that select the built-in model."""
    return {"MULTITALK_MODEL": MODEL, "MODEL_PATH": str(trained_folder), "OMP_NUM_THREADS": "1", "MAX_SECONDS": "30"}


@pytest.fixture(scope="package")
def loaded_runner(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Fails at the end if any test has left a temporary file."""
    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(scratch))
        for name, value in environ.items():
            patch.setenv(name, value)
        runner = Runner()
        runner.load()
        yield runner
    assert [path.name for path in scratch.iterdir()] == []


@pytest.fixture
def runner(loaded_runner: Runner) -> Iterator[Runner]:
    """Waits at the end until no request runs, so that a cancelled one does not slow the next test."""
    yield loaded_runner
    with loaded_runner.lock:
        pass


@pytest.fixture
def few_steps(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API has no field for the number of steps, whose default of 40 takes too long."""
    run = runner.run

    def run_few_steps(inputs: Mapping[str, Any], output_dir: Path, context: RequestContext) -> Output:
        return run({"sampling_steps": 2, **inputs}, output_dir, context)

    monkeypatch.setattr(runner, "run", run_few_steps)


@pytest.fixture
def service(runner: Runner) -> Service:
    """Without a bucket."""
    return Service(runner=runner, fetcher=make_fetcher(read_settings({})))


@pytest.fixture(scope="package")
def shared_store() -> Iterator[LocalS3]:
    with local_s3() as store:
        for name, data in {"multi1.png": plain(), "1.wav": voice(), "2.wav": voice()}.items():
            store.client().put_object(Bucket="talks", Key=name, Body=data)
        yield store


@pytest.fixture
def store(shared_store: LocalS3, monkeypatch: pytest.MonkeyPatch) -> LocalS3:
    """A bucket with an image and two voices, and the environment variables that select it."""
    for name, value in shared_store.environ().items():
        monkeypatch.setenv(name, value)
    return shared_store


@pytest.fixture
def bucket_service(runner: Runner, store: LocalS3) -> Service:
    """With the bucket."""
    return Service(runner=runner, fetcher=make_fetcher(read_settings(store.environ())))


def basic_request(**fields: Any) -> dict[str, Any]:
    """A cheap request in RunPod's basic format; None removes a field."""
    cheap = {"reference_image": uri(plain()), "audio_1": uri(voice()), "num_frames": 5, "sampling_steps": 2}
    cheap |= {"turbo": True}
    return {name: value for name, value in (cheap | fields).items() if value is not None}


def child_environment(environ: dict[str, str], **more: str) -> dict[str, str]:
    """Environment variables of a server process."""
    return {**os.environ, **environ, **more}


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """Runs a program in a process of its own; returns its standard output."""

    def run(program: str) -> str:
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
