"""`python -m benchmarks.report.performance`: write docs/performance.md and its plots from benchmarks/results/*.json.

Sections without a result say that they are not measured yet.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.cli_args import make_page_parser
from benchmarks.report.defaults import DOCS, RESULTS
from src.command_line import Parser, launch


def make_parser() -> Parser:
    """The command line."""
    return make_page_parser("-m benchmarks.report.performance", __doc__)


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.report.performance", make_parser)

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.page import sections
from benchmarks.gpu.plot import plot as plot_gpu
from benchmarks.report.tables import markdown_table

PAGE, PLOT = "performance.md", "performance.svg"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """JSON documents of the benchmarks; only `bench` is required."""

    bench: Row
    cold_start: Row | None = None
    gpu: Row | None = None
    compiled: Row | None = None


def render_page(results: Results) -> str:
    """The page as Markdown."""
    bench, peak = results.bench, results.bench["peak_throughput"]
    parts = [
        "# Performance",
        f"Made by `{bench['command']}` on {bench['machine']} (torch {bench['torch']}, {bench['date']}, commit "
        f"{bench['commit']}). Peak throughput in the same run: {peak['matmul_gflops']:.0f} GFLOP/s (large matrix "
        f"product) and {peak['copy_gb_s']:.0f} GB/s (copy). *Roofline*: minimum time of the required operations at "
        "that throughput. *Relative error*: difference of the guided velocity from the eager baseline's. The eager "
        "baseline, `benchmarks/baseline/eager_transformer.py`, computes the same network as the published code does.",
        f"![Time of a denoising step from the eager baseline to the optimized model]({PLOT})",
    ]
    for name, rows in bench["steps"].items():
        title = f"## Denoising step of the built-in model, preset `{name}`"
        parts += [f"{title}: {bench['ratios'][name]:.2f} times as fast as the eager baseline", _steps(rows)]
    parts.append(_remaining_gain(bench))
    if "clip" in bench:
        parts += ["## Whole clip", _clip(bench["clip"])]
    if "block of the 14B network" in bench:
        parts += [
            "## One block of the 14B transformer, bfloat16, guidance of `quality`",
            _blocks(bench["block of the 14B network"]),
        ]
    parts += ["## Threads and dtype", _dtype_and_threads(bench["dtype_and_threads"])]
    parts += ["## Cold start", _cold_start(results.cold_start)]
    parts += sections(results.gpu, results.compiled)
    return "\n\n".join(parts) + "\n"


def _steps(rows: Sequence[Row]) -> str:
    return markdown_table(
        ("added optimization", "ms", "relative to row above", "x roofline", "relative error"),
        [
            (
                row["variant"],
                f"{row['median_s'] * 1e3:.1f}",
                "" if before is None else f"{row['median_s'] / before['median_s']:.2f}",
                f"{row['over_roofline']:.1f}",
                f"{row['relative_error']:.0e}",
            )
            for before, row in zip([None, *rows], rows, strict=False)
        ],
    )


def _remaining_gain(bench: Mapping[str, Any]) -> str:
    rows = bench["steps"]["quality"]
    return (
        f"With three guidance passes the eager baseline takes only {rows[0]['over_roofline']:.1f} times its roofline: "
        "on a CPU, matrix products and attention, which both have in common, dominate a step. Without approximation, "
        "only skipping unneeded work makes it faster."
    )


def _clip(clip: Row) -> str:
    return (
        f"Two persons, {clip['frames']} frames of 64 x 128 in three chunks, preset `fast`, audio to frames: optimized "
        f"{clip['optimized_s']:.2f} s, eager baseline {clip['eager_s']:.2f} s, {clip['plain_over_ours']:.2f} times as "
        "long (diffusers' VAE, two guidance passes per step). Pixel values (0 to 255) of the two videos differ by at "
        f"most {clip['max_pixel_difference']}."
    )


def _blocks(rows: Sequence[Row]) -> str:
    return markdown_table(
        ("tokens", "added optimization", "ms", "x roofline", "relative error"),
        [
            (
                str(row["tokens"]),
                row["variant"],
                f"{row['median_s'] * 1e3:.0f}",
                f"{row['over_roofline']:.1f}",
                f"{row['relative_error']:.0e}",
            )
            for row in rows
        ],
    )


def _dtype_and_threads(rows: Sequence[Row]) -> str:
    table = markdown_table(
        ("dtype", "threads", "ms", "relative error"),
        [(r["dtype"], str(r["threads"]), f"{r['median_s'] * 1e3:.1f}", f"{r['relative_error']:.0e}") for r in rows],
    )
    best = {dtype: min(row["median_s"] for row in rows if row["dtype"] == dtype) for dtype in ("float32", "bfloat16")}
    saving = 1 - best["bfloat16"] / best["float32"]
    return (
        "The optimized step of `quality`; relative error to float32. float32 is the default on CPUs, since bfloat16 "
        f"saves only {saving:.0%} of a step here.\n\n{table}"
    )


def _cold_start(document: Row | None) -> str:
    """Seconds by phase, or how to measure them."""
    if document is None:
        return "Not measured yet: run `python -m benchmarks.speed.cold_start`."
    phases = [(phase, f"{stats['median_s']:.2f}") for phase, stats in document["seconds"].items()]
    return (
        f"Seconds from process start until the predictor is ready. Made by `{document['command']}` with "
        f"`{document['model']}` on {document['machine']}, device {document['device']['name']} ({document['date']}, "
        f"commit {document['commit']}); medians of {document['repeats']} processes.\n\n"
        f"{markdown_table(('phase', 's'), phases)}"
    )


def plot(bench: Mapping[str, Any], path: Path) -> None:
    """One panel per preset with a bar for every variant; the roofline is a dashed line."""
    from matplotlib.figure import Figure  # optional dependency

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    panels = figure.subplots(len(bench["steps"]), 1, squeeze=False)[:, 0]
    for axis, (name, rows) in zip(panels, bench["steps"].items(), strict=True):
        names = [row["variant"] for row in rows]
        milliseconds = [row["median_s"] * 1e3 for row in rows]
        colors = ["tab:gray", *["tab:blue"] * (len(rows) - 2), "tab:green"]
        axis.barh(names, milliseconds, color=colors, height=0.7)
        axis.axvline(rows[0]["roofline_s"] * 1e3, color="tab:red", linestyle="--", linewidth=1, label="roofline")
        axis.invert_yaxis()
        axis.set_title(f"denoising step, {name}: milliseconds", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def write(results: Path = RESULTS, docs: Path = DOCS) -> None:
    """Write the page and its plots."""
    documents = read_results(results)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / PAGE).write_text(render_page(documents))
    plot(documents.bench, docs / PLOT)
    if documents.gpu is not None:
        plot_gpu(dict(documents.gpu), docs)


def read_results(folder: Path) -> Results:
    """Read the JSON documents of a folder, each named after its command."""
    documents = {
        name: json.loads(path.read_text())
        for name in ("bench", "cold_start", "gpu", "compiled")
        if (path := folder / f"{name}.json").is_file()
    }
    return Results(**documents)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = make_parser().parse_args(argv)
    write(args.results, args.docs)
    return 0
