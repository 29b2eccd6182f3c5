"""`python -m benchmarks.quality.quality_cost`: what every approximation costs the lips, and what it saves.

The same clips are made under one change at a time; own, other, drift and seconds a clip are measured in the same run.
Variants take turns clip by clip, so that a disturbance of the machine meets all of them. Written as JSON into
`benchmarks/results/`, as a plot and a Markdown table into `docs/`.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.baseline.puppet import COLOR_CORRECTION, MODEL, SIZE_CLASS, WEIGHTS, Puppet, Taken
from benchmarks.quality.clips import KINDS, ROWS, Clip, draw_clip
from benchmarks.quality.lipsync import number
from benchmarks.quality.metrics import Figures, drift, finite, psnr, read
from benchmarks.quality.sync_metrics import best_lag, interval, other_correlation, own_correlation, still
from benchmarks.report.environment import RESULTS, environment
from benchmarks.report.tables import markdown
from training.scenes import face_boxes
from wan.checkpoint import Precision
from wan.checkpoint.lora import Lora
from wan.configs import WAN_CONFIGS
from wan.sampling.options import SamplingOptions

logger = logging.getLogger(__name__)

DOCS = Path(__file__).parents[2] / "docs"
MEASURED = ("two add", "two para", "two para, 5 chunks")
"""Rows whose clips are pooled; the long one shows drift."""
PLAIN: Mapping[str, Any] = {
    "sampling_steps": 8,
    "shift": 3.0,
    "text_guide_scale": 1.0,
    "audio_guide_scale": 2.0,
    "teacache_thresh": 0.0,
}
"""What every line begins with; colours as the predictor corrects them."""
MANY: Mapping[str, Any] = {"sampling_steps": 25, "shift": 5.0, "text_guide_scale": 3.0, "audio_guide_scale": 3.0}
"""What those do that are made for many steps and strong guidance."""
SHORTCUTS: Mapping[str, Mapping[str, Any]] = {
    "no cache": {"teacache_thresh": 0.0, "cache": "none"},
    "MagCache": {"teacache_thresh": 0.0, "cache": "magcache"},
    "guidance reuse": {"guidance_reuse": True},
}
"""In place of a preset's own TeaCache, or besides."""
CONFIG = WAN_CONFIGS[MODEL]
TURBO = "turbo"
COLUMNS = ("", "own", "95 %", "other", "lag", "silent mouths", "drift", "PSNR dB", "runs", "s/clip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to sample: values in place of `PLAIN`'s, the weights' precision, a LoRA."""

    group: str
    name: str
    precision: Precision = "bf16"
    lora: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


def variants(loras: Iterable[Path]) -> list[Variant]:
    """Everything that is priced."""
    one_by_one: tuple[tuple[str, str, Mapping[str, Any], tuple[Any, ...]], ...] = (
        ("steps", "sampling_steps", {}, (2, 3, 4, 6, 8, 16, 40)),
        ("shift", "shift", {}, (1.0, 2.0, 3.0, 5.0, 8.0)),
        ("speech guidance", "audio_guide_scale", {}, (1.0, 1.5, 2.0, 3.0, 4.0)),
        ("text guidance", "text_guide_scale", {}, (1.0, 2.0, 3.0, 5.0)),
        ("TeaCache, 25 steps", "teacache_thresh", MANY, (0.0, 0.1, 0.3, 0.8)),
        ("MagCache, 25 steps", "magcache_thresh", {**MANY, "cache": "magcache"}, (0.06, 0.12, 0.24)),
        ("guidance reuse, guidance 3 and 3", "guidance_reuse", MANY, (False, True)),
        ("APG, guidance 3 and 3", "use_apg", MANY, (False, True)),
        ("colour correction", "color_correction_strength", {}, (0.0, COLOR_CORRECTION, 1.0)),
    )
    found = [
        Variant(group=group, name=("off", "on")[value] if isinstance(value, bool) else f"{value:g}",
                changes={**base, option: value})
        for group, option, base, values in one_by_one
        for value in values
    ]  # fmt: skip
    by_name = {path.stem: path for path in loras}
    found += presets(by_name)
    precisions: tuple[tuple[str, Precision], ...] = (("as trained", "bf16"), ("fp8", "fp8"), ("int8", "int8"))
    found += [Variant(group="precision", name=name, precision=precision) for name, precision in precisions]
    for path in by_name.values():
        for steps in (2, 4):
            changes = {"sampling_steps": steps, "shift": 2.0, "audio_guide_scale": 1.0}
            found += [
                Variant(group=f"LoRA {path.stem}", name=f"{steps} steps, without", changes=changes),
                Variant(group=f"LoRA {path.stem}", name=f"{steps} steps, with", changes=changes, lora=path),
            ]
    return found


def presets(loras: Mapping[str, Path]) -> list[Variant]:
    """The presets as they are, where their LoRA is at hand, and what the slow ones become with each shortcut."""
    found = []
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
            found.append(Variant(group="preset", name=name, lora=lora, changes=values))
        if preset.lora is None:
            found += [
                Variant(group="preset", name=f"{name}, {shortcut}", changes={**values, **changes})
                for shortcut, changes in SHORTCUTS.items()
            ]
    return found


def price(folder: Path, wanted: list[Variant], clips: int, long_clips: int, seed: int) -> list[dict[str, Any]]:
    """The figures of every variant on the same clips."""
    drawn = [
        draw_clip(row, seed, index)
        for row in ROWS
        if row.name in MEASURED
        for index in range(clips if row.chunks == 1 else long_clips)
    ]
    puppets = {precision: Puppet(folder, precision) for precision in {variant.precision for variant in wanted}}
    takes: list[list[Taken]] = [[] for _ in wanted]
    runs = [puppets[each.precision].evaluations(options_of(puppets[each.precision], each)) for each in wanted]
    for count, clip in enumerate(drawn, 1):
        for variant, taken in zip(wanted, takes, strict=True):
            puppet = puppets[variant.precision]
            puppet.use([] if variant.lora is None else [Lora(weights=variant.lora)])
            taken.append(puppet.take(clip, options_of(puppet, variant, seed)))
        logger.warning("clip %d of %d", count, len(drawn))
    return [
        {"group": variant.group, "name": variant.name, "runs": count, **summary(drawn, taken)}
        for variant, count, taken in zip(wanted, runs, takes, strict=True)
    ]


def options_of(puppet: Puppet, variant: Variant, seed: int = 0) -> SamplingOptions:
    """The sampling of a variant."""
    return puppet.options("fast", seed=seed, **{**PLAIN, **variant.changes})


def summary(clips: list[Clip], takes: list[Taken]) -> Figures:
    """Figures of one variant; seconds are of one chunk."""
    pairs = [(clip, take.frames) for clip, take in zip(clips, takes, strict=True)]
    readings = [reading for clip, frames in pairs for reading in read(clip, frames)]
    figures: Figures = {
        "own": own_correlation(readings),
        "own_95": interval(readings, own_correlation),
        "other": other_correlation(readings),
        "lag": best_lag(readings),
        "still_mean": still(readings)[0],
        "drift": np.mean([drift(frames, box) for clip, frames in pairs for box in face_boxes(clip.scene)]),
        "psnr": np.mean([psnr(frames, face_boxes(clip.scene)) for clip, frames in pairs]),
        "seconds": median(take.seconds / clip.row.chunks for clip, take in zip(clips, takes, strict=True)),
    }
    return {name: finite(value) for name, value in figures.items()}


def table(prices: list[dict[str, Any]]) -> str:
    """Markdown, the groups one after the other."""
    lines: list[tuple[str, ...]] = []
    for one in prices:
        low, high = one["own_95"]
        figures = (one["own"], f"{number(low)} to {number(high)}", one["other"])
        cells = [cell if isinstance(cell, str) else number(cell) for cell in figures]
        rest = (number(one["lag"], 0), number(one["still_mean"]), number(one["drift"], 1), number(one["psnr"], 1))
        cost = (str(one["runs"]), number(one["seconds"], 2))
        lines.append((f"{one['group']}: {one['name']}", *cells, *rest, *cost))
    return markdown(COLUMNS, lines)


def plot(prices: list[dict[str, Any]], path: Path) -> None:
    """One line a variant, grouped; own with its interval, |other|, and seconds a chunk side by side."""
    from matplotlib.figure import Figure  # only plots need it

    places, labels, gaps = _places(prices)
    figure = Figure(figsize=(10, 0.24 * places[-1] + 1), layout="constrained")
    own, other, seconds = figure.subplots(1, 3, sharey=True, width_ratios=(3, 2, 2))
    lows, highs = (np.array([one["own_95"][side] or 0 for one in prices], float) for side in (0, 1))
    middles = np.array([one["own"] or 0 for one in prices], float)
    own.hlines(places, lows, highs, color="0.6", linewidth=3)
    own.plot(middles, places, "o", color="tab:blue", markersize=5)
    own.axvline(0.9, color="tab:green", linewidth=0.8, linestyle="--")
    others = [abs(one["other"] or 0) for one in prices]
    other.plot(others, places, "o", color="tab:orange", markersize=5)
    other.axvline(0.15, color="tab:green", linewidth=0.8, linestyle="--")
    other.set_xlim(0, max(0.2, 1.1 * max(others)))
    seconds.barh(places, [one["seconds"] for one in prices], color="0.7", height=0.6)
    for axis, title in ((own, "own voice (95 %), goal from 0.9"), (other, "|other voice|, goal to 0.15"),
                        (seconds, "seconds a chunk")):  # fmt: skip
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", color="0.9")
        axis.tick_params(labelsize=8)
        for gap in gaps:
            axis.axhline(gap, color="0.85", linewidth=0.6)
    own.set_yticks(places, labels)
    own.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _places(prices: list[dict[str, Any]]) -> tuple[list[float], list[str], list[float]]:
    """Heights and labels of the lines, and the heights of the rules between groups."""
    places: list[float] = []
    gaps: list[float] = []
    height = 0.0
    for before, one in zip([None, *prices], prices, strict=False):
        if before is not None and before["group"] != one["group"]:
            gaps.append(height)
            height += 1
        places.append(height)
        height += 1
    return places, [f"{one['group']}: {one['name']}" for one in prices], gaps


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.quality_cost", description=__doc__)
    parser.add_argument("--clips", type=int, default=12, help="a row")
    parser.add_argument("--long-clips", type=int, default=4, help="of five chunks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, metavar="DIR")
    parser.add_argument("--groups", nargs="*", help="beginnings of the groups that are wanted (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="DIR")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    wanted = variants(sorted((given.weights / "loras").glob("*.safetensors")))
    wanted = [each for each in wanted if given.groups is None or each.group.startswith(tuple(given.groups))]
    prices = price(given.weights, wanted, given.clips, given.long_clips, given.seed)
    document = {
        **environment("benchmarks.quality.quality_cost"),
        "voices": KINDS,
        "rows": MEASURED,
        "clips_a_row": given.clips,
        "long_clips": given.long_clips,
        "plain": PLAIN,
        "variants": [asdict(each) | {"lora": each.lora and each.lora.name} for each in wanted],
        "prices": prices,
    }
    for folder in (given.results, given.docs):
        folder.mkdir(parents=True, exist_ok=True)
    (given.results / "prices.json").write_text(json.dumps(document, indent=2) + "\n")
    (given.docs / "prices.md").write_text(text(document))
    plot(prices, given.docs / "prices.svg")
    sys.stdout.write(table(prices) + "\n")


def text(document: Mapping[str, Any]) -> str:
    """The page with plot and table."""
    said = "; ".join(f"{key} {document[key]}" for key in ("date", "commit", "machine", "torch"))
    return (
        "# What approximations cost the lips\n\n"
        f"Made by `{document['command']}` ({said}).\n"
        f"{document['clips_a_row']} clips each of the rows {', '.join(document['rows'][:2])} of "
        f"`benchmarks.quality.lipsync`\n"
        f"and {document['long_clips']} of {document['rows'][2]}, the same for every line.\n"
        "One thing at a time differs from 8 steps, shift 3, speech guidance 2 and no text guidance; caches, reuse of\n"
        "guidance and APG are measured at 25 steps, shift 5 and guidance 3 of both; the LoRA at shift 2 without\n"
        "guidance; presets are as they come.\n"
        "own: correlation of the read mouth with its own voice; other: partial correlation with the other's;\n"
        "silent mouths: mean opening that is read there; drift: of a face's colours, of 255; runs: of the\n"
        "stack of blocks, in a chunk; seconds: of a chunk.\n\n"
        f"![One line an approximation: own voice, other voice, seconds](prices.svg)\n\n{table(document['prices'])}\n"
    )


if __name__ == "__main__":
    main()
