"""`python -m benchmarks.gpu.plot RESULT.json`: a roofline, and where a step goes, from what a run measured."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

DPI = 150


class Point(NamedTuple):
    """One piece of work on the roofline: operations per byte, and operations a second."""

    name: str
    intensity: float
    rate: float


def plot(document: dict[str, Any], folder: Path, kind: str = "svg") -> tuple[Path, Path]:
    """Both pictures; their paths."""
    paths = folder / f"gpu-roofline.{kind}", folder / f"gpu-step.{kind}"
    for path, draw in zip(paths, (draw_roofline, draw_step), strict=True):
        figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
        draw(axes, document)
        axes.set_title(f"{document['model']} on {document['device']['name']}", loc="left", fontsize=11)
        figure.savefig(path, dpi=DPI)
        plt.close(figure)
    return paths


def results(document: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """What a stage measured; nothing where it failed or did not run."""
    found: dict[str, Any] = document["stages"].get(stage, {}).get("results", {})
    return found


def draw_roofline(axes: Axes, document: dict[str, Any]) -> None:
    """Stages of a block under the two ceilings of the same run; lines across for what is told without bytes."""
    ceilings = document["ceilings"]
    found = list(points(document))
    knee = ceilings["product"] / ceilings["copy"]
    low, high = min([knee, *(p.intensity for p in found)]) / 3, max([knee, *(p.intensity for p in found)]) * 3
    intensity = np.geomspace(low, high)
    for name, rate in (("product", ceilings["product"]), ("product in fp8", ceilings["product_fp8"])):
        if rate:
            axes.plot(intensity, np.minimum(intensity * ceilings["copy"], rate) / 1e12, label=f"large {name}, and copy")
    for number, point in enumerate(found):
        axes.scatter(point.intensity, point.rate / 1e12, marker="os^vDPX*"[number % 8], zorder=3, label=point.name)
    for number, (name, rate) in enumerate(whole_rates(document)):
        axes.axhline(rate / 1e12, linewidth=1, linestyle=("--", ":", "-.")[number % 3], color=f"C{number}", label=name)
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="TFLOP/s")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def points(document: dict[str, Any]) -> Iterator[Point]:
    """Stages of a block that multiply, at each profiled size."""
    for size, profile in results(document, "profile").items():
        for name, stage in profile["stages"].items():
            if stage["flops"]:
                yield Point(f"{name}, {size}", stage["flops"] / stage["bytes"], stage["flops"] / stage["seconds"])


def whole_rates(document: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Operations a second of whole forwards at the named sizes, and of the VAE."""
    for name, row in results(document, "forward-named").items():
        if name != "weights_bytes":
            yield f"forward, {name}", row["flops"] / row["median_s"]
    for size, rows in results(document, "vae").items():
        for name, row in rows.items():
            yield f"{name}, {size}", row["flops"] / row["median_s"]


def draw_step(axes: Axes, document: dict[str, Any]) -> None:
    """All blocks of a forward by stages, and beside them their floors."""
    profiles = results(document, "profile")
    names = list(dict.fromkeys(name for profile in profiles.values() for name in profile["stages"]))
    colors = plt.get_cmap("tab20")(np.linspace(0, 1, max(len(names), 1)))
    bars = [(f"{size}\n{what}", profile, key) for size, profile in profiles.items() for what, key in KINDS]
    bottom = np.zeros(len(bars))
    for name, color in zip(names, colors, strict=True):
        heights = np.array([each["blocks"] * each["stages"].get(name, {}).get(key, 0) for _, each, key in bars])
        axes.bar([label for label, *_ in bars], heights, bottom=bottom, color=color, label=name, width=0.6)
        bottom += heights
    axes.set_ylabel("seconds in all blocks of a forward, two persons")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


KINDS = (("measured", "seconds"), ("floor", "floor_s"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.plot", description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    parser.add_argument("--kind", choices=["svg", "png"], default="svg")
    given = parser.parse_args()
    plot(json.loads(given.result.read_text()), given.folder, given.kind)


if __name__ == "__main__":
    main()
