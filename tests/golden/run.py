"""Compare every output tensor of every golden file of a folder with what this package computes."""

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tests.golden import modules, pipeline
from tests.golden.file import GoldenFile, golden_paths, read_golden, stem

EXACT, MODULE, LATENT, VIDEO = 0.0, 2e-6, 1e-5, 5e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Files of one kind: what computes them, which tensors are inputs, and limits by pattern of output."""

    compute: Callable[[GoldenFile], dict[str, Tensor]]
    inputs: tuple[str, ...]
    limits: dict[str, float]


MODULE_LIMITS = {"*": MODULE}
FAMILIES = {
    "dit_forward": Family(
        compute=modules.dit_forward,
        inputs=("x", "y", "context", "clip_fea", "ref_target_masks", "audio_*"),
        limits=MODULE_LIMITS,
    ),
    "t5_encoder": Family(compute=modules.t5_encoder, inputs=("sd.*", "ids", "mask"), limits=MODULE_LIMITS),
    "clip_visual": Family(compute=modules.clip_visual, inputs=("sd.*", "image"), limits=MODULE_LIMITS),
    "vae": Family(compute=modules.vae, inputs=("sd.*", "video", "z"), limits=MODULE_LIMITS),
    "wav2vec": Family(compute=modules.wav2vec, inputs=("sd.*", "waveform"), limits=MODULE_LIMITS),
    "loudness": Family(compute=modules.loudness, inputs=("waveform",), limits=MODULE_LIMITS),
    "schedule": Family(compute=modules.schedule, inputs=(), limits=MODULE_LIMITS),
    "apg": Family(compute=modules.apg, inputs=("cond_*", "diff_*"), limits=MODULE_LIMITS),
    "color": Family(compute=modules.color, inputs=("src", "ref"), limits=MODULE_LIMITS),
    "pipe_*": Family(
        compute=pipeline.pipeline,
        inputs=(),
        limits={
            "video_f16": VIDEO,
            "latent_*": LATENT,
            "y_*": LATENT,
            "clip_input_*": LATENT,
            "ref_target_masks_*": EXACT,
            "audio_*": EXACT,
        },
    ),
}
WITHOUT_CASE = ("dit_weights",)
TODO = ("infinite_*", "lora", "quanto_*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One output tensor: its relative L2 error, the limit, and ok, FAIL or todo."""

    name: str
    error: float
    limit: float
    verdict: str

    def __str__(self) -> str:
        return f"{self.name:<48} {self.error:9.2e} {self.limit:9.2e}  {self.verdict}"


def run_folder(folder: Path) -> Iterator[Result]:
    """Results of every golden file of a folder, in order of name."""
    for path in golden_paths(folder):
        if stem(path) not in WITHOUT_CASE:
            yield from run_file(read_golden(path))


def run_file(golden: GoldenFile) -> Iterator[Result]:
    """Results of one file; a file of no known family is a FAIL."""
    name = stem(golden.path)
    if _matches(name, TODO):
        yield Result(name=name, error=float("nan"), limit=float("nan"), verdict="todo")
        return
    family = next((family for pattern, family in FAMILIES.items() if fnmatch.fnmatch(name, pattern)), None)
    if family is None:
        yield Result(name=f"{name} (no case)", error=float("nan"), limit=float("nan"), verdict="FAIL")
        return
    with torch.inference_mode():
        computed = family.compute(golden)
    for output, expected in golden.tensors.items():
        if not _matches(output, family.inputs):
            yield compare(f"{name}.{output}", computed.get(output), expected, _limit(output, family))


def compare(name: str, computed: Tensor | None, expected: Tensor, limit: float) -> Result:
    """A missing value, another shape or a NaN is a FAIL."""
    if computed is None or computed.shape != expected.shape:
        shape = None if computed is None else tuple(computed.shape)
        return Result(
            name=f"{name} (shape {shape}, not {tuple(expected.shape)})",
            error=float("nan"),
            limit=limit,
            verdict="FAIL",
        )
    error = relative_error(computed, expected)
    return Result(name=name, error=error, limit=limit, verdict="ok" if error <= limit else "FAIL")


def relative_error(computed: Tensor, expected: Tensor) -> float:
    """|computed - expected| / |expected| (L2, float64); the absolute error where nothing is expected."""
    difference = torch.linalg.vector_norm(computed.double() - expected.double()).item()
    return difference / (torch.linalg.vector_norm(expected.double()).item() or 1.0)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _limit(name: str, family: Family) -> float:
    return next((limit for pattern, limit in family.limits.items() if fnmatch.fnmatch(name, pattern)), EXACT)
