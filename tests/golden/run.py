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
GENERATIONS = Family(
    compute=pipeline.pipeline,
    inputs=(),
    limits={
        "video_f16": VIDEO,
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
WITHOUT_CASE = ("dit_weights",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One output tensor of a file: its relative L2 error, the limit, and ok or FAIL."""

    file: str
    output: str = ""
    error: float = float("nan")
    limit: float = float("nan")
    verdict: str
    remark: str = ""

    def __str__(self) -> str:
        name = f"{self.file}.{self.output}".rstrip(".") + self.remark
        return f"{name:<48} {self.error:9.2e} {self.limit:9.2e}  {self.verdict}"


def run_folder(folder: Path) -> Iterator[Result]:
    """Results of every golden file of a folder, in order of name; a file of no known family is a FAIL."""
    for path in golden_paths(folder):
        name = stem(path)
        if name in WITHOUT_CASE:
            continue
        if find_family(name) is None:
            yield Result(file=name, verdict="FAIL", remark=" (no case)")
        else:
            golden = read_golden(path)
            yield from compare_file(golden, compute_file(golden))


def find_family(name: str) -> Family | None:
    """The family of a file, by its name without suffix."""
    return next((family for pattern, family in FAMILIES.items() if fnmatch.fnmatch(name, pattern)), None)


def compute_file(golden: GoldenFile) -> dict[str, Tensor]:
    """Our value for every output of a file."""
    family = find_family(stem(golden.path))
    assert family is not None, golden.path
    with torch.inference_mode():
        return family.compute(golden)


def compare_file(golden: GoldenFile, computed: dict[str, Tensor]) -> Iterator[Result]:
    """A result for every tensor of the file that is no input; a missing value, another shape or a NaN is a FAIL."""
    name = stem(golden.path)
    family = find_family(name)
    assert family is not None, golden.path
    for output, expected in golden.tensors.items():
        if _matches(output, family.inputs):
            continue
        limit = next(limit for pattern, limit in family.limits.items() if fnmatch.fnmatch(output, pattern))
        ours = computed.get(output)
        if ours is None or ours.shape != expected.shape:
            remark = f" ({None if ours is None else tuple(ours.shape)}, not {tuple(expected.shape)})"
            yield Result(file=name, output=output, limit=limit, verdict="FAIL", remark=remark)
            continue
        error = relative_error(ours, expected)
        verdict = "ok" if error <= limit else "FAIL"
        yield Result(file=name, output=output, error=error, limit=limit, verdict=verdict)


def relative_error(computed: Tensor, expected: Tensor) -> float:
    """|computed - expected| / |expected| (L2, float64); the absolute error where nothing is expected."""
    difference = torch.linalg.vector_norm(computed.double() - expected.double()).item()
    return difference / (torch.linalg.vector_norm(expected.double()).item() or 1.0)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
