"""Imports go downward only. The order is written here, and read from the syntax trees."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each line may import the lines above it, and what stands on its own line.
WAN = [
    {"wan.configs"},
    {"wan.configs.capabilities", "wan.types"},
    {"wan.chunks", "wan.color", "wan.modules", "wan.checkpoint.tensor_files"},
    {"wan.conditioning", "wan.checkpoint.keys", "wan.checkpoint.loading", "wan.sampling", "wan.decode"},
    {"wan.motion", "wan.progress", "wan.checkpoint.quanto"},
    {"wan.checkpoint.layout", "wan.checkpoint.component"},
    {"wan.checkpoint.components", "wan.checkpoint.lora"},
    {"wan.checkpoint.convert", "wan.offload.estimate"},
    {"wan.offload.manager"},
    {"wan.multitalk"},
    {"wan"},
]
SRC = [{"src.errors"}, {"src.media"}, {"src.audio_analysis", "src.storage"}, {"src.request"}, {"src"}]
APART = {"src.serving", "src.weights"}  # nobody else in src imports these, nor they anybody else
ORDERED = {member for level in [*WAN, *SRC] for member in level} | APART
# What weights.py may import of wan, and only when it is asked to convert: the converter brings torch.
CONVERTER = ("wan.checkpoint.convert", "wan.configs")
# These introduce the two siblings to each other, and are imported by nobody below.
INTRODUCERS = {"places", "settings", "predict", "preview", "deploy", "training", "tests", "benchmarks"}
# The predictor's own parts; a command for some of what it does, other ways to serve it, measurements of what it needs.
AROUND_PREDICT = {
    ("settings", "places"),
    *((above, part) for above in ("predict", "preview") for part in ("places", "settings")),
    *((above, part) for above in ("deploy", "benchmarks") for part in ("predict", "settings")),
}
VAGUE_NAMES = {"utils", "helpers", "common", "misc"}
SKIPPED = {".venv", "outputs", "weights", "__pycache__"}


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Every module of the project, by its dotted name."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not SKIPPED & set(parts[:-1][:1]):
            yield ".".join(parts).removesuffix(".__init__"), path


def imports(name: str, path: Path) -> Iterator[str]:
    """Every name that a module imports, wherever in the file; relative ones made absolute."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def group(name: str) -> str:
    """Who a dotted name belongs to: `wan.modules.rope` to `wan.modules`, `wan.MultiTalkPipeline` to `wan`."""
    top_two = ".".join(name.split(".")[:2])
    return top_two if top_two in ORDERED else name.partition(".")[0]


def allowed(importer: str, imported: str) -> bool:
    """Whether a module of group `importer` may import one of group `imported`."""
    above, below = importer.partition(".")[0], imported.partition(".")[0]
    if importer == imported or below not in {"wan", "src", "weights", *INTRODUCERS}:
        return True
    if above in INTRODUCERS:
        return below not in INTRODUCERS or above == "tests" or below == "training" or (above, below) in AROUND_PREDICT
    if imported == "src.errors":  # a leaf that imports nothing
        return above in {"src", "weights"}
    if above == "weights":
        return imported == "src.weights"
    if above != below or APART & {importer, imported}:
        return False
    levels = WAN if above == "wan" else SRC
    return rank(importer, levels) > rank(imported, levels)


def permitted(name: str, imported: str) -> bool:
    """Whether module `name` may import `imported`: by the order, and no torch where weights are fetched."""
    if name == "weights" and imported.startswith(CONVERTER):
        return True
    if group(name) in {"weights", "src.weights"} and group(imported) == "torch":
        return False
    return allowed(group(name), group(imported))


def rank(member: str, levels: list[set[str]]) -> int:
    """The height of a group in its order."""
    return next(height for height, level in enumerate(levels) if member in level)


def violations(root: Path) -> list[str]:
    """What breaks the rules below `root`, one line each."""
    found = []
    for name, path in modules(root):
        folder = name.partition(".")[0]
        found += [f"{name}: say what it holds, not {part}" for part in VAGUE_NAMES & set(name.split("."))]
        if folder in {"wan", "src"} and "." in name and group(name) == folder:
            found.append(f"{name}: the import order does not name it")
        elif folder in {"wan", "src", "weights", *INTRODUCERS}:
            found += [f"{name} imports {imported}" for imported in imports(name, path) if not permitted(name, imported)]
    return found


def test_imports_go_downward() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("wan/modules/rope.py", "import src.media"),
        ("src/media/image.py", "from wan import types"),
        ("src/serving/cog/server.py", "from src.media import picture"),
        ("src/serving/cog/server.py", "import wan"),
        ("src/media/audio/audio.py", "from src.audio_analysis.wav2vec2 import Wav2Vec2Model"),
        ("src/media/audio/audio.py", "from ..audio_analysis import wav2vec2"),
        ("src/media/audio/audio.py", "from .. import audio_analysis"),
        ("wan/types.py", "from wan.modules.rope import rotate"),
        ("wan/types.py", "from .modules import rope"),
        ("wan/configs/schema.py", "from wan import types"),
        ("wan/modules/rope.py", "from wan.checkpoint.components import load"),
        ("wan/sampling/denoise.py", "from wan.conditioning import text"),
        ("wan/chunks.py", "def late():\n    from wan.multitalk import MultiTalkPipeline"),
        ("wan/chunks.py", "from wan.color import match"),
        ("wan/chunks.py", "import predict"),
        ("wan/sampling/denoise.py", "from wan import MultiTalkPipeline"),
        ("weights.py", "import torch"),
        ("weights.py", "from wan.multitalk import MultiTalkPipeline"),
        ("weights.py", "from src.media import picture"),
        ("src/weights/fetch/hub.py", "import torch"),
        ("src/weights/fetch/hub.py", "from src.media import picture"),
        ("src/serving/cog/server.py", "from src.weights import hub"),
        ("benchmarks/speed.py", "import tests.golden"),
        ("predict.py", "from deploy.runner import Engine"),
        ("places.py", "import predict"),
        ("settings.py", "import predict"),
        ("preview.py", "import predict"),
        ("wan/chunks.py", "import places"),
        ("src/storage/fetcher.py", "import deploy"),
        ("src/storage/fetcher.py", "from src.serving import logs"),
        ("src/media/image.py", "from src.storage import inputs"),
        ("wan/new_thing.py", ""),
        ("wan/modules/utils.py", ""),
        ("src/media/common.py", ""),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, line: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{line}\n")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (
            "predict.py",
            "import wan, weights\nfrom src.media import picture\nfrom src.serving.cog.client import main",
        ),
        (
            "tests/test_x.py",
            "import predict, wan\nfrom src.media import picture\nfrom training import random_weights",
        ),
        (
            "deploy/runner.py",
            "from predict import Predictor\nfrom src.storage.fetcher import Inputs\nfrom deploy import form",
        ),
        ("predict.py", "from places import find_places\nfrom settings import read_settings"),
        ("src/storage/fetcher.py", "from src.errors import InputError"),
        ("training/train.py", "import wan\nfrom src.audio_analysis import wav2vec2"),
        ("wan/__init__.py", "from wan.multitalk import MultiTalkPipeline"),
        (
            "wan/multitalk.py",
            "from wan.sampling.denoise import denoise\nfrom .chunks import plan\nimport torch",
        ),
        ("wan/modules/rope.py", "from wan.modules.norms import norm\nfrom ..types import Grid"),
        ("src/audio_analysis/timeline.py", "from src.media.audio.audio import read"),
        ("weights.py", "import os\nfrom src.weights.ensure import ensure"),
        ("weights.py", "def convert():\n    from wan.checkpoint.convert import convert"),
    ],
)
def test_what_is_allowed_is_not_found(tmp_path: Path, file: str, line: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{line}\n")
    assert violations(tmp_path) == []


@pytest.mark.parametrize("module", ["wan", "wan.configs"])
def test_importing_costs_nothing(module: str) -> None:
    """No CUDA, no model library, no change to the environment."""
    program = f"""
import os, sys
before = dict(os.environ)
import {module}
assert dict(os.environ) == before, "the environment was changed"
heavy = [name for name in ("transformers", "diffusers", "librosa", "av") if name in sys.modules]
assert not heavy, heavy
torch = sys.modules.get("torch")
assert torch is None or not torch.cuda.is_initialized(), "CUDA was initialised"
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
