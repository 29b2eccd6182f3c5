"""The pipeline of one rank, and its videos."""

from pathlib import Path

import pytest
from torch import Tensor

from tests.wan.parallel.cases import CASES, generate
from wan import MultiTalkPipeline
from wan.configs import ModelConfig


@pytest.fixture(scope="package")
def expected(puppet: ModelConfig, puppet_folder: Path) -> dict[str, Tensor]:
    """The video of each case."""
    single = MultiTalkPipeline(puppet, puppet_folder)
    return {name: generate(single, name) for name in CASES}
