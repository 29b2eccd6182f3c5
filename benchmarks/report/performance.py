"""`python -m benchmarks.report.performance`: docs/performance.md and its plot from the JSON in `benchmarks/results/`.

Nothing is written there that was not measured: what no result holds, the page says is not measured.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.page import sections
from benchmarks.gpu.plot import plot as plot_gpu
from benchmarks.report.environment import RESULTS
from benchmarks.report.tables import markdown

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOT = "performance.md", "performance.svg"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What was measured: on a processor, and whatever else anybody has measured."""

    bench: Row
    cold_start: Row | None = None
    gpu: Row | None = None
    compiled: Row | None = None


def page(results: Results) -> str:
    """The whole page."""
    bench = results.bench
    parts = [
        "# How fast it is",
        f"Made by `{bench['command']}` on {bench['machine']} (torch {bench['torch']}, {bench['date']}, commit "
        f"{bench['commit']}). A large matrix product reached {bench['ceilings']['product_gflops']:.0f} GFLOP/s in the "
        f"same run, a copy {bench['ceilings']['copy_gb_s']:.0f} GB/s. *Floor*: the operations that are needed, at "
        "that rate. *Off*: relative difference of the guided velocity from the plain form's. The plain form is "
        "`benchmarks/baseline/eager_transformer.py`: the same network as the papers' code computes it, frozen.",
        f"![Seconds of a step from the plain form to ours]({PLOT})",
    ]
    for name, rows in bench["steps"].items():
        title = (
            f"## A step of the small model as in `{name}`: {bench['ratios'][name]:.2f} times as fast as the plain form"
        )
        parts += [title, _steps(rows)]
    parts.append(_bound(bench))
    if "clip" in bench:
        parts += ["## A clip", _clip(bench["clip"])]
    if "block of the 14B network" in bench:
        parts += [
            "## One block of the 14B network, bfloat16, as in `quality`",
            _blocks(bench["block of the 14B network"]),
        ]
    parts += ["## Threads and dtype", _choices(bench["choices"])]
    parts += ["## From the start of a process to its being ready", start_up(results.cold_start)]
    parts += sections(results.gpu, results.compiled)
    return "\n\n".join(parts) + "\n"


def _steps(rows: Sequence[Row]) -> str:
    return markdown(
        ("added", "ms", "of the row above", "x floor", "off"),
        [
            (
                row["what"],
                f"{row['median_s'] * 1e3:.1f}",
                "" if before is None else f"{row['median_s'] / before['median_s']:.2f}",
                f"{row['over_floor']:.1f}",
                f"{row['difference']:.0e}",
            )
            for before, row in zip([None, *rows], rows, strict=False)
        ],
    )


def _bound(bench: Mapping[str, Any]) -> str:
    rows = bench["steps"]["quality"]
    return (
        f"With three passes the plain form takes only {rows[0]['over_floor']:.1f} times its floor: on a processor "
        "matrix products and attention, which both forms share, are most of a step. What is left to gain exactly is "
        "work that need not be done."
    )


def _clip(clip: Row) -> str:
    return (
        f"Two persons, {clip['frames']} frames of 64 x 128 in three chunks, preset `fast`, from sound to frames: "
        f"{clip['ours_s']:.2f} s, plainly {clip['plain_s']:.2f} s, {clip['plain_over_ours']:.2f} times as long (the "
        "library's VAE, two passes a step). The two videos differ by at most "
        f"{clip['largest_difference_of_255']} of 255."
    )


def _blocks(rows: Sequence[Row]) -> str:
    return markdown(
        ("tokens", "added", "ms", "x floor", "off"),
        [
            (
                str(row["tokens"]),
                row["what"],
                f"{row['median_s'] * 1e3:.0f}",
                f"{row['over_floor']:.1f}",
                f"{row['difference']:.0e}",
            )
            for row in rows
        ],
    )


def _choices(rows: Sequence[Row]) -> str:
    table = markdown(
        ("dtype", "threads", "ms", "off"),
        [(r["dtype"], str(r["threads"]), f"{r['median_s'] * 1e3:.1f}", f"{r['difference']:.0e}") for r in rows],
    )
    kept, half = (min(row["median_s"] for row in rows if row["dtype"] == dtype) for dtype in ("float32", "bfloat16"))
    saved = 1 - half / kept
    return (
        f"Of our step as in `quality`; off from float32. Processors stay with float32: bfloat16 saves {saved:.0%} of a "
        f"step here.\n\n{table}"
    )


def start_up(document: Row | None) -> str:
    """Seconds by part, or how to measure them."""
    if document is None:
        return "Not measured yet; `python -m benchmarks.speed.cold_start` does it."
    parts = [(part, f"{each['median_s']:.2f}") for part, each in document["seconds"].items()]
    return (
        f"Made by `{document['command']}` with `{document['model']}` on {document['machine']}, device "
        f"{document['device']['name']} ({document['date']}, commit {document['commit']}); medians of "
        f"{document['repeats']} processes.\n\n{markdown(('part', 's'), parts)}"
    )


def plot(bench: Mapping[str, Any], path: Path) -> None:
    """A bar for every rung, one panel a kind of step; the floor is a dashed line."""
    from matplotlib.figure import Figure  # only plots need it

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    panels = figure.subplots(len(bench["steps"]), 1, squeeze=False)[:, 0]
    for axis, (name, rows) in zip(panels, bench["steps"].items(), strict=True):
        names = [row["what"] for row in rows]
        milliseconds = [row["median_s"] * 1e3 for row in rows]
        colors = ["tab:gray", *["tab:blue"] * (len(rows) - 2), "tab:green"]
        axis.barh(names, milliseconds, color=colors, height=0.7)
        axis.axvline(rows[0]["floor_s"] * 1e3, color="tab:red", linestyle="--", linewidth=1, label="floor")
        axis.invert_yaxis()
        axis.set_title(f"a step, {name}: milliseconds", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def write(results: Path = RESULTS, docs: Path = DOCS) -> None:
    """Make the page and its plot."""
    found = read(results)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / PAGE).write_text(page(found))
    plot(found.bench, docs / PLOT)
    if found.gpu is not None:
        plot_gpu(dict(found.gpu), docs)


def read(folder: Path) -> Results:
    """From the files of a folder, each named as its command names it."""
    found = {
        name: json.loads(path.read_text())
        for name in ("bench", "cold_start", "gpu", "compiled")
        if (path := folder / f"{name}.json").is_file()
    }
    return Results(**found)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report.performance", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="DIR")
    given = parser.parse_args()
    write(given.results, given.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
