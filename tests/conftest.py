"""What several tests need."""

import shutil
import signal
from pathlib import Path

import pytest

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
