"""Compare each output tensor of the golden files of a folder with what this package computes."""

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
    """Golden files of one kind: the function that computes them, input tensors, and error limits by output pattern."""

    compute: Callable[[GoldenFile], dict[str, Tensor]]
    inputs: tuple[str, ...]
    limits: dict[str, float]


MODULE_LIMITS = {"*": MODULE}
GENERATIONS = Family(
    compute=pipeline.pipeline,
    inputs=(),
    limits={
        pipeline.VIDEO: VIDEO,
        "latent_*": LATENT,
        "y_*": LATENT,
        "clip_input_*": LATENT,
        "ref_target_masks_*": EXACT,
        "audio_*": EXACT,
        "*": EXACT,
    },
)
FAMILIES = {
    "dit_forward": Family(
        compute=modules.dit_forward,
        inputs=("x", "y", "context", "clip_fea", "ref_target_masks", "audio_*"),
        limits=MODULE_LIMITS,
    ),
    "quanto_*": Family(compute=modules.quanto, inputs=("sd.*",), limits=MODULE_LIMITS),
    "lora": Family(compute=modules.lora, inputs=("lora.*",), limits=MODULE_LIMITS),
    "t5_encoder": Family(compute=modules.t5_encoder, inputs=("sd.*", "ids", "mask"), limits=MODULE_LIMITS),
    "clip_visual": Family(compute=modules.clip_visual, inputs=("sd.*", "image"), limits=MODULE_LIMITS),
    "vae": Family(compute=modules.vae, inputs=("sd.*", "video", "z"), limits=MODULE_LIMITS),
    "wav2vec": Family(compute=modules.wav2vec, inputs=("sd.*", "waveform"), limits=MODULE_LIMITS),
    "loudness": Family(compute=modules.loudness, inputs=("waveform",), limits=MODULE_LIMITS),
    "schedule": Family(compute=modules.schedule, inputs=(), limits=MODULE_LIMITS),
    "apg": Family(compute=modules.apg, inputs=("cond_*", "diff_*"), limits=MODULE_LIMITS),
    "color": Family(compute=modules.color, inputs=("src", "ref"), limits=MODULE_LIMITS),
    "pipe_*": GENERATIONS,
    "infinite_*": GENERATIONS,
}
NOT_COMPARED = ("dit_weights",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One output tensor of a file: its relative L2 error, the limit, and ok or FAIL."""

    file: str
    output: str = ""
    error: float = float("nan")
    limit: float = float("nan")
    verdict: str
    note: str = ""

    def __str__(self) -> str:
        name = f"{self.file}.{self.output}".rstrip(".") + self.note
        return f"{name:<48} {self.error:9.2e} {self.limit:9.2e}  {self.verdict}"


def run_folder(folder: Path) -> Iterator[Result]:
    """Results of all golden files of a folder, in order of name; a file of no family is a FAIL."""
    for path in golden_paths(folder):
        name = stem(path)
        if name in NOT_COMPARED:
            continue
        if find_family(name) is None:
            yield Result(file=name, verdict="FAIL", note=" (no case)")
        else:
            golden = read_golden(path)
            yield from compare_file(golden, compute_file(golden))


def find_family(name: str) -> Family | None:
    """The family of a file, by its name without suffix."""
    return next((family for pattern, family in FAMILIES.items() if fnmatch.fnmatch(name, pattern)), None)


def compute_file(golden: GoldenFile) -> dict[str, Tensor]:
    """The values computed for the outputs of a file."""
    family = find_family(stem(golden.path))
    assert family is not None, golden.path
    with torch.inference_mode():
        return family.compute(golden)


def compare_file(golden: GoldenFile, computed: dict[str, Tensor]) -> Iterator[Result]:
    """A result for each tensor of the file that is not an input; a missing value, another shape or NaN is a FAIL.

    The reference's video may end early: it drops up to three frames, and with speech of unequal length all frames
    after the end of person 1's. Only the frames that it has are compared.
    """
    name = stem(golden.path)
    family = find_family(name)
    assert family is not None, golden.path
    for output, expected in golden.tensors.items():
        if _matches(output, family.inputs):
            continue
        limit = next(limit for pattern, limit in family.limits.items() if fnmatch.fnmatch(output, pattern))
        actual = computed.get(output)
        if actual is not None and output == pipeline.VIDEO:
            actual = actual[:, : expected.shape[1]]
        if actual is None or actual.shape != expected.shape:
            note = f" ({None if actual is None else tuple(actual.shape)}, not {tuple(expected.shape)})"
            yield Result(file=name, output=output, limit=limit, verdict="FAIL", note=note)
            continue
        error = relative_error(actual, expected)
        verdict = "ok" if error <= limit else "FAIL"
        yield Result(file=name, output=output, error=error, limit=limit, verdict=verdict)


def relative_error(computed: Tensor, expected: Tensor) -> float:
    """|computed - expected| / |expected| (L2, float64); the absolute error where `expected` is zero."""
    difference = torch.linalg.vector_norm(computed.double() - expected.double()).item()
    return difference / (torch.linalg.vector_norm(expected.double()).item() or 1.0)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
