"""Rewrite what is generated in the documentation: the tables of docs/inputs.md, presets.md, multi-gpu.md and gpu.md,
and the pages of the benchmarks from benchmarks/results/ (without their plots, which `benchmarks.report` draws); and the
snapshot of the inputs, tests/input_schema.json, which must stay compatible.

python -m scripts.generate_docs [--check]
"""

from collections.abc import Sequence

from src.command_line import Parser, launch


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m scripts.generate_docs", __doc__)
    parser.add_argument("--check", action="store_true", help="name pages that are out of date and change nothing")
    return parser


if __name__ == "__main__":  # before the imports below
    launch("scripts.generate_docs", make_parser)


import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.inputs import input_schema
from benchmarks.report import gpu_plans, multi_gpu, performance, presets, quality_vs_speed
from benchmarks.report.defaults import DOCS, RESULTS
from benchmarks.report.tables import markdown_table
from scripts.input_snapshot import SNAPSHOT, render_snapshot

ROOT = Path(__file__).parents[1]


def input_table() -> str:
    """The predictor's inputs as a Markdown table, from its schema."""
    schemas = input_schema()["components"]["schemas"]
    required = schemas["Input"].get("required", [])
    rows = []
    for name, field in schemas["Input"]["properties"].items():
        default = "**required**" if name in required else default_text(field.get("default"))
        rows.append((f"`{name}`", field["description"], allowed_text(field, schemas), default))
    return markdown_table(("input", "what", "allowed", "default"), rows)


def allowed_text(field: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Type and bounds, or choices."""
    if "allOf" in field:
        return ", ".join(f"`{choice}`" for choice in schemas[field["allOf"][0]["$ref"].rpartition("/")[2]]["enum"])
    if field.get("format") == "uri":
        return "file"
    if field["type"] == "array":
        return "files" if field["items"].get("format") == "uri" else "texts"
    low, high = field.get("minimum"), field.get("maximum")
    bounds = f" {low} to {high}" if high is not None else f" from {low}" if low is not None else ""
    return {"string": "text", "boolean": "true, false"}.get(field["type"], field["type"]) + bounds


def default_text(value: Any) -> str:
    """A default as JSON has it; empty for none."""
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def replace_section(text: str, name: str, content: str) -> str:
    """The page with `content` between its comments `<!-- name: ... -->` and `<!-- end of name -->`."""
    pattern = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no section {name}")
    return pattern.sub(lambda match: f"{match[1]}{content.strip()}\n{match[2]}", text)


SECTIONS: dict[str, tuple[str, Callable[[], str]]] = {
    "docs/inputs.md": ("inputs", input_table),
    "docs/presets.md": ("presets", presets.render_table),
    "docs/gpu.md": ("gpu plans", gpu_plans.render_table),
    "docs/multi-gpu.md": ("multi-gpu", multi_gpu.render_table),
}


def render_pages() -> dict[Path, str]:
    """The current text of every page with generated content."""
    pages = {
        SNAPSHOT: render_snapshot(input_schema()),
        DOCS / performance.PAGE: performance.render_page(performance.read_results(RESULTS)),
        DOCS / quality_vs_speed.PAGE: quality_vs_speed.render_page(
            json.loads((RESULTS / quality_vs_speed.RESULT).read_text())
        ),
    }
    for name, (section, render) in SECTIONS.items():
        path = ROOT / name
        pages[path] = replace_section(path.read_text(encoding="utf-8"), section, render())
    return pages


def outdated() -> dict[Path, str]:
    """Pages that differ from their current text, with that text."""
    return {path: text for path, text in render_pages().items() if path.read_text(encoding="utf-8") != text}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; with --check the exit status is 1 if a page is out of date."""
    check = make_parser().parse_args(argv).check
    pages = outdated()
    for path, text in pages.items():
        sys.stderr.write(f"{path.relative_to(ROOT)} {'is out of date' if check else 'rewritten'}\n")
        if not check:
            path.write_text(text, encoding="utf-8")
    return 1 if check and pages else 0
