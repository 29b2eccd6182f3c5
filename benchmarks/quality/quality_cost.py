"""`python -m benchmarks.quality.quality_cost`: effect of sampling options and approximations on quality and speed.

Generates the same clips with every variant and measures lip sync, drift and seconds per chunk in one run. Variants are
interleaved clip by clip, so that disturbances of the machine affect all of them alike. Written to
benchmarks/results/quality_cost.json and docs/quality-vs-speed.md.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.cli_args import add_docs
from benchmarks.report.defaults import COLOR_CORRECTION, MODEL, RESULTS, WEIGHTS
from src.command_line import Parser, existing_folder, launch, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.quality.quality_cost", __doc__)
    parser.add_argument("--clips", type=whole_number(), default=12, help="clips per row of one chunk")
    parser.add_argument("--long-clips", type=whole_number(0), default=4, help="clips per row of five chunks")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of the clips and of the noise")
    parser.add_argument(
        "--weights", type=existing_folder, default=WEIGHTS, metavar="DIR", help="folder of the model's weights"
    )
    parser.add_argument("--groups", nargs="*", help="prefixes of the groups to measure (default: all)")
    parser.add_output(
        "--results",
        is_folder=True,
        rewrite_default=True,
        default=RESULTS,
        metavar="DIR",
        help="folder of the JSON result",
    )
    add_docs(parser)
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.quality.quality_cost", make_parser)

import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from benchmarks.baseline.puppet import SIZE_CLASS, GeneratedClip, Puppet
from benchmarks.quality.clips import ROWS, VOICE_KINDS, Clip, draw_clip
from benchmarks.quality.metrics import Metrics, drift, psnr, read_mouths, to_json_value
from benchmarks.quality.sync_metrics import (
    best_lag,
    bootstrap_interval,
    other_correlation,
    own_correlation,
    silent_opening,
)
from benchmarks.report import quality_vs_speed
from benchmarks.report.environment import environment, write_result
from training.scenes import face_boxes
from wan.checkpoint import Precision
from wan.checkpoint.lora import Lora
from wan.configs import WAN_CONFIGS
from wan.sampling.options import SamplingOptions

logger = logging.getLogger(__name__)

MEASURED_ROWS = ("two add", "two para", "two para, 5 chunks")
"""Rows whose clips are pooled; the long one shows drift."""
BASELINE: Mapping[str, Any] = {
    "sampling_steps": 8,
    "shift": 3.0,
    "text_guide_scale": 1.0,
    "audio_guide_scale": 2.0,
    "teacache_thresh": 0.0,
}
"""Options of every variant unless it changes them; color correction is the generator's default."""
MANY_STEPS: Mapping[str, Any] = {
    "sampling_steps": 25,
    "shift": 5.0,
    "text_guide_scale": 3.0,
    "audio_guide_scale": 3.0,
}
"""Options of the variants of caches and guidance methods, which need many steps and strong guidance."""
SHORTCUTS: Mapping[str, Mapping[str, Any]] = {
    "no cache": {"teacache_thresh": 0.0, "cache": "none"},
    "MagCache": {"teacache_thresh": 0.0, "cache": "magcache"},
    "guidance reuse": {"guidance_reuse": True},
}
"""Changes of a preset, in place of or in addition to its TeaCache."""
CONFIG = WAN_CONFIGS[MODEL]
TURBO = "turbo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to sample: options that differ from `BASELINE`, dtype of the weights, and a LoRA."""

    group: str
    name: str
    precision: Precision = "bf16"
    lora: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


def all_variants(loras: Iterable[Path]) -> list[Variant]:
    """Every variant, given the LoRA files."""
    single_options: tuple[tuple[str, str, Mapping[str, Any], tuple[Any, ...]], ...] = (
        ("steps", "sampling_steps", {}, (2, 3, 4, 6, 8, 16, 40)),
        ("shift", "shift", {}, (1.0, 2.0, 3.0, 5.0, 8.0)),
        ("speech guidance", "audio_guide_scale", {}, (1.0, 1.5, 2.0, 3.0, 4.0)),
        ("text guidance", "text_guide_scale", {}, (1.0, 2.0, 3.0, 5.0)),
        ("TeaCache, 25 steps", "teacache_thresh", MANY_STEPS, (0.0, 0.1, 0.3, 0.8)),
        ("MagCache, 25 steps", "magcache_thresh", {**MANY_STEPS, "cache": "magcache"}, (0.06, 0.12, 0.24)),
        ("guidance reuse, guidance 3 and 3", "guidance_reuse", MANY_STEPS, (False, True)),
        ("APG, guidance 3 and 3", "use_apg", MANY_STEPS, (False, True)),
        ("color correction", "color_correction_strength", {}, (0.0, COLOR_CORRECTION, 1.0)),
    )
    variants = [
        Variant(
            group=group,
            name=("off", "on")[value] if isinstance(value, bool) else f"{value:g}",
            changes={**base, option: value},
        )
        for group, option, base, values in single_options
        for value in values
    ]
    by_name = {path.stem: path for path in loras}
    variants += preset_variants(by_name)
    precisions: tuple[tuple[str, Precision], ...] = (("as trained", "bf16"), ("fp8", "fp8"), ("int8", "int8"))
    variants += [Variant(group="precision", name=name, precision=precision) for name, precision in precisions]
    for path in by_name.values():
        for steps in (2, 4):
            changes = {"sampling_steps": steps, "shift": 2.0, "audio_guide_scale": 1.0}
            variants += [
                Variant(group=f"LoRA {path.stem}", name=f"{steps} steps, without", changes=changes),
                Variant(group=f"LoRA {path.stem}", name=f"{steps} steps, with", changes=changes, lora=path),
            ]
    return variants


def preset_variants(loras: Mapping[str, Path]) -> list[Variant]:
    """Presets whose LoRA is available, and presets without a LoRA with every shortcut."""
    variants = []
    for name in (*CONFIG.presets, TURBO):
        preset = CONFIG.turbo if name == TURBO else CONFIG.presets[name]
        values = {
            "sampling_steps": preset.sampling_steps,
            "shift": preset.shift[SIZE_CLASS],
            "text_guide_scale": preset.text_guide_scale,
            "audio_guide_scale": preset.audio_guide_scale,
            "teacache_thresh": preset.teacache_thresh,
        }
        if preset.lora is None or preset.lora in loras:
            lora = None if preset.lora is None else loras[preset.lora]
            variants.append(Variant(group="preset", name=name, lora=lora, changes=values))
        if preset.lora is None:
            variants += [
                Variant(group="preset", name=f"{name}, {shortcut}", changes={**values, **changes})
                for shortcut, changes in SHORTCUTS.items()
            ]
    return variants


def measure_variants(
    folder: Path, variants: list[Variant], clips: int, long_clips: int, seed: int
) -> list[dict[str, Any]]:
    """Metrics of every variant on the same clips."""
    drawn = [
        draw_clip(row, seed, index)
        for row in ROWS
        if row.name in MEASURED_ROWS
        for index in range(clips if row.num_chunks == 1 else long_clips)
    ]
    puppets = {precision: Puppet(folder, precision) for precision in {variant.precision for variant in variants}}
    evaluations = [
        puppets[variant.precision].evaluations(variant_options(puppets[variant.precision], variant))
        for variant in variants
    ]
    generated: list[list[GeneratedClip]] = [[] for _ in variants]
    for count, clip in enumerate(drawn, 1):
        for variant, videos in zip(variants, generated, strict=True):
            puppet = puppets[variant.precision]
            puppet.set_loras([] if variant.lora is None else [Lora(weights=variant.lora)])
            videos.append(puppet.generate(clip, variant_options(puppet, variant, seed)))
        logger.warning("clip %d of %d", count, len(drawn))
    return [
        {"group": variant.group, "name": variant.name, "evaluations": count, **summarize(drawn, videos)}
        for variant, count, videos in zip(variants, evaluations, generated, strict=True)
    ]


def variant_options(puppet: Puppet, variant: Variant, seed: int = 0) -> SamplingOptions:
    """Sampling options of a variant."""
    return puppet.options("fast", seed=seed, **{**BASELINE, **variant.changes})


def summarize(clips: list[Clip], videos: list[GeneratedClip]) -> Metrics:
    """Metrics of one variant; `seconds` are per chunk."""
    pairs = [(clip, video.frames) for clip, video in zip(clips, videos, strict=True)]
    readings = [reading for clip, frames in pairs for reading in read_mouths(clip, frames)]
    metrics: Metrics = {
        "own": own_correlation(readings),
        "own_95": bootstrap_interval(readings, own_correlation),
        "other": other_correlation(readings),
        "lag": best_lag(readings),
        "silent_mean": silent_opening(readings)[0],
        "drift": np.mean([drift(frames, box) for clip, frames in pairs for box in face_boxes(clip.scene)]),
        "psnr": np.mean([psnr(frames, face_boxes(clip.scene)) for clip, frames in pairs]),
        "seconds": median(video.seconds / clip.row.num_chunks for clip, video in zip(clips, videos, strict=True)),
    }
    return {name: to_json_value(value) for name, value in metrics.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    variants = all_variants(sorted((args.weights / "loras").glob("*.safetensors")))
    variants = [each for each in variants if args.groups is None or each.group.startswith(tuple(args.groups))]
    results = measure_variants(args.weights, variants, args.clips, args.long_clips, args.seed)
    document = {
        **environment("benchmarks.quality.quality_cost"),
        "voices": VOICE_KINDS,
        "rows": MEASURED_ROWS,
        "clips_per_row": args.clips,
        "long_clips": args.long_clips,
        "baseline": BASELINE,
        "variants": [asdict(each) | {"lora": each.lora and each.lora.name} for each in variants],
        "results": results,
    }
    write_result(args.results / quality_vs_speed.RESULT, document)
    quality_vs_speed.write(args.results, args.docs)
    sys.stdout.write(quality_vs_speed.render_table(results) + "\n")
