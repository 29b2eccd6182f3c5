"""`python -m benchmarks.gpu.plot RESULT.json`: plot the roofline and the time of a forward by stage of a GPU run.

Written to docs/gpu-roofline.svg and docs/gpu-step.svg.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.defaults import DOCS
from src.command_line import Parser, existing_file, launch


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.gpu.plot", __doc__)
    parser.add_argument("result", type=existing_file, help="JSON result of benchmarks.gpu")
    parser.add_output("--folder", is_folder=True, rewrite_default=True, default=DOCS, help="folder of the plots")
    parser.add_argument("--kind", choices=["svg", "png"], default="svg", help="file format")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.gpu.plot", make_parser)

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

DPI = 150
BARS = (("measured", "seconds"), ("roofline", "roofline_s"))


class Point(NamedTuple):
    """A point of the roofline plot: FLOP per byte, and FLOP/s."""

    name: str
    intensity: float
    rate: float


def plot(document: dict[str, Any], folder: Path, kind: str = "svg") -> tuple[Path, Path]:
    """Write both plots; returns their paths."""
    paths = folder / f"gpu-roofline.{kind}", folder / f"gpu-step.{kind}"
    for path, draw in zip(paths, (draw_roofline, draw_step), strict=True):
        figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
        draw(axes, document)
        axes.set_title(f"{document['model']} on {document['device']['name']}", loc="left", fontsize=11)
        figure.savefig(path, dpi=DPI)
        plt.close(figure)
    return paths


def stage_results(document: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Results of a stage; empty if it failed or did not run."""
    rows: dict[str, Any] = document["stages"].get(stage, {}).get("results", {})
    return rows


def draw_roofline(axes: Axes, document: dict[str, Any]) -> None:
    """Stages of a block under the peak throughput of the same run; horizontal lines for work without a byte count."""
    peak = document["peak_throughput"]
    points = list(stage_points(document))
    ridge = peak["matmul"] / peak["copy"]
    intensities = [ridge, *(point.intensity for point in points)]
    low, high = min(intensities) / 3, max(intensities) * 3
    intensity = np.geomspace(low, high)
    for name, rate in (("matmul", peak["matmul"]), ("fp8 matmul", peak["matmul_fp8"])):
        if rate:
            axes.plot(intensity, np.minimum(intensity * peak["copy"], rate) / 1e12, label=f"peak {name} and copy")
    for number, point in enumerate(points):
        axes.scatter(point.intensity, point.rate / 1e12, marker="os^vDPX*"[number % 8], zorder=3, label=point.name)
    for number, (name, rate) in enumerate(forward_rates(document)):
        axes.axhline(rate / 1e12, linewidth=1, linestyle=("--", ":", "-.")[number % 3], color=f"C{number}", label=name)
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="TFLOP/s")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def stage_points(document: dict[str, Any]) -> Iterator[Point]:
    """Stages of a block that have FLOPs, at each profiled size."""
    for size, profile in stage_results(document, "profile").items():
        for name, stage in profile["stages"].items():
            if stage["flops"]:
                yield Point(f"{name}, {size}", stage["flops"] / stage["bytes"], stage["flops"] / stage["seconds"])


def forward_rates(document: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """FLOP/s of whole forwards at the main sizes, and of the VAE."""
    for name, row in stage_results(document, "forward-main").items():
        if name != "weights_bytes":
            yield f"forward, {name}", row["flops"] / row["median_s"]
    for size, rows in stage_results(document, "vae").items():
        for name, row in rows.items():
            yield f"{name}, {size}", row["flops"] / row["median_s"]


def draw_step(axes: Axes, document: dict[str, Any]) -> None:
    """Stacked bars of a forward's blocks by stage: measured beside the roofline."""
    profiles = stage_results(document, "profile")
    names = list(dict.fromkeys(name for profile in profiles.values() for name in profile["stages"]))
    colors = plt.get_cmap("tab20")(np.linspace(0, 1, max(len(names), 1)))
    bars = [(f"{size}\n{title}", profile, key) for size, profile in profiles.items() for title, key in BARS]
    bottom = np.zeros(len(bars))
    for name, color in zip(names, colors, strict=True):
        heights = np.array(
            [profile["blocks"] * profile["stages"].get(name, {}).get(key, 0) for _, profile, key in bars]
        )
        axes.bar([label for label, *_ in bars], heights, bottom=bottom, color=color, label=name, width=0.6)
        bottom += heights
    axes.set_ylabel("seconds in all blocks of a forward, two persons")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = make_parser().parse_args(argv)
    plot(json.loads(args.result.read_text()), args.folder, args.kind)
