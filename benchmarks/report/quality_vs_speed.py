"""`python -m benchmarks.report.quality_vs_speed`: write docs/quality-vs-speed.md and its plot from the JSON result."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.cli_args import make_page_parser
from benchmarks.report.defaults import DOCS, RESULTS
from src.command_line import Parser, launch


def make_parser() -> Parser:
    """The command line."""
    return make_page_parser("-m benchmarks.report.quality_vs_speed", __doc__)


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.report.quality_vs_speed", make_parser)

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.report.tables import format_number, markdown_table

PAGE, PLOT, RESULT = "quality-vs-speed.md", "quality-vs-speed.svg", "quality_cost.json"
COLUMNS = ("variant", "own", "95 %", "other", "lag", "silent mouths", "drift", "PSNR dB", "evaluations", "s/chunk")

Row = Mapping[str, Any]


def render_page(document: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    environment = "; ".join(f"{key} {document[key]}" for key in ("date", "commit", "machine", "torch"))
    return (
        "# Quality versus speed\n\n"
        f"Made by `{document['command']}` ({environment}).\n"
        f"Every variant generates the same clips: {document['clips_per_row']} of each of the rows "
        f"{', '.join(document['rows'][:2])} of\n"
        f"`benchmarks.quality.lipsync`, and {document['long_clips']} of {document['rows'][2]}.\n"
        "A variant changes one option of the baseline: 8 steps, shift 3, audio guidance 2, no text guidance. Caches,\n"
        "guidance reuse and APG are compared at 25 steps, shift 5 and both guidance scales 3; LoRAs at shift 2\n"
        "without guidance; presets are unchanged.\n\n"
        "- own: correlation of the mouth opening with the own voice; other: partial correlation with the other voice\n"
        "- silent mouths: mean mouth opening in silence, 0 to 1; drift: RMS color drift of faces, of 255\n"
        "- evaluations: of the transformer blocks, per chunk; s/chunk: seconds per chunk\n\n"
        f"![Own voice, other voice and seconds of every variant]({PLOT})\n\n{render_table(document['results'])}\n"
    )


def render_table(rows: Sequence[Row]) -> str:
    """One line per variant."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        low, high = map(format_number, row["own_95"])
        lines.append(
            (
                f"{row['group']}: {row['name']}",
                format_number(row["own"]),
                f"{low} to {high}",
                format_number(row["other"]),
                format_number(row["lag"], 0),
                format_number(row["silent_mean"]),
                format_number(row["drift"], 1),
                format_number(row["psnr"], 1),
                str(row["evaluations"]),
                format_number(row["seconds"]),
            )
        )
    return markdown_table(COLUMNS, lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """One line per variant: own with its confidence interval, |other|, and seconds per chunk side by side."""
    from matplotlib.figure import Figure  # optional dependency

    heights, separators = _layout_rows(rows)
    figure = Figure(figsize=(10, 0.24 * heights[-1] + 1), layout="constrained")
    own, other, seconds = figure.subplots(1, 3, sharey=True, width_ratios=(3, 2, 2))
    lows, highs = (np.array([row["own_95"][side] or 0 for row in rows], float) for side in (0, 1))
    own.hlines(heights, lows, highs, color="0.6", linewidth=3)
    own.plot([row["own"] or 0 for row in rows], heights, "o", color="tab:blue", markersize=5)
    own.axvline(0.9, color="tab:green", linewidth=0.8, linestyle="--")
    others = [abs(row["other"] or 0) for row in rows]
    other.plot(others, heights, "o", color="tab:orange", markersize=5)
    other.axvline(0.15, color="tab:green", linewidth=0.8, linestyle="--")
    other.set_xlim(0, max(0.2, 1.1 * max(others)))
    seconds.barh(heights, [row["seconds"] for row in rows], color="0.7", height=0.6)
    titles = ("own voice (95 %), goal at least 0.9", "|other voice|, goal at most 0.15", "seconds per chunk")
    for axis, title in zip((own, other, seconds), titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", color="0.9")
        axis.tick_params(labelsize=8)
        for height in separators:
            axis.axhline(height, color="0.85", linewidth=0.6)
    own.set_yticks(heights, [f"{row['group']}: {row['name']}" for row in rows])
    own.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _layout_rows(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Heights of the lines, and of the separators between groups."""
    heights: list[float] = []
    separators: list[float] = []
    height = 0.0
    for previous, row in zip([None, *rows], rows, strict=False):
        if previous is not None and previous["group"] != row["group"]:
            separators.append(height)
            height += 1
        heights.append(height)
        height += 1
    return heights, separators


def write(results: Path = RESULTS, docs: Path = DOCS) -> None:
    """Write the page and its plot."""
    document = json.loads((results / RESULT).read_text())
    docs.mkdir(parents=True, exist_ok=True)
    (docs / PAGE).write_text(render_page(document))
    plot(document["results"], docs / PLOT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = make_parser().parse_args(argv)
    write(args.results, args.docs)
    return 0
