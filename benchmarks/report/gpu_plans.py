"""Table of docs/gpu.md: what fits on which card, from benchmarks/results/dry_run.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report.defaults import RESULTS
from benchmarks.report.tables import markdown_table

RESULT = "dry_run.json"
HEADER = (
    "GPU",
    "weights",
    "video",
    "plan",
    "GPU memory: predicted (counted)",
    "GPU memory: counted in the dry run",
    "host memory (counted)",
    "10 s of video, preset `fast` (estimated)",
)
SIZES = ("predicted_bytes", "counted_bytes", "host_bytes")


def render_table(results: Path = RESULTS) -> str:
    """Markdown table with a row for every recipe."""
    if not (results / RESULT).exists():
        return "Not counted yet: `python -m benchmarks.dry_run` does."
    document = json.loads((results / RESULT).read_text())
    return markdown_table(HEADER, map(_cells, document["recipes"]))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    persons = f"{row['persons']} person{'s' * (row['persons'] > 1)}"
    return (
        f"{row['gpu'] / 1e9:.0f} GB ({row['card']})",
        row["dtype"],
        f"{row['resolution']}, {persons}",
        row["plan"] or "none fits",
        *(f"{row[key] / 1e9:.1f} GB" if key in row else "not run" for key in SIZES),
        f"{row['seconds'] / 60:.0f} min" if row["seconds"] > 90 else f"{row['seconds']:.0f} s",
    )
