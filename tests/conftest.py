"""What several tests need."""

import shutil
import signal
from pathlib import Path

import pytest
import soundfile

from training.random_weights import write_model
from wan.configs import WAN_CONFIGS, ModelConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Commands that tests start can be interrupted, also where the tests run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def puppet() -> ModelConfig:
    """The small model's configuration."""
    return WAN_CONFIGS["multitalk-puppet"]


@pytest.fixture(scope="session")
def puppet_folder(puppet: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with random weights, in the published file formats."""
    folder = tmp_path_factory.mktemp("puppet")
    write_model(puppet, folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def trained_folder(puppet: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built-in model, to which tests may add files."""
    return Path(shutil.copytree(ROOT / "models" / puppet.name, tmp_path_factory.mktemp("trained") / "weights"))


@pytest.fixture
def short_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has the folder of examples, with 0.8 s of each audio file."""
    examples = Path(shutil.copytree(ROOT / "examples", tmp_path / "examples"))
    (tmp_path / "models").symlink_to(ROOT / "models")
    for path in (*examples.glob("*.flac"), *examples.glob("*.ogg")):
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples[: round(0.8 * rate)], rate)
    monkeypatch.chdir(tmp_path)
