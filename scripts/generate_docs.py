"""Rewrite what is generated in the documentation: the table of docs/inputs.md and the counts of docs/presets.md.

python -m scripts.generate_docs [--check]
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.inputs import input_schema
from benchmarks.report.tables import markdown

ROOT = Path(__file__).parents[1]


def input_table() -> str:
    """The predictor's inputs as a Markdown table, from its schema."""
    schemas = input_schema()["components"]["schemas"]
    required = schemas["Input"].get("required", [])
    rows = []
    for name, field in schemas["Input"]["properties"].items():
        default = "**required**" if name in required else default_text(field.get("default"))
        rows.append((f"`{name}`", field["description"], allowed_text(field, schemas), default))
    return markdown(("input", "what", "allowed", "default"), rows)


def allowed_text(field: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Type and bounds, or choices."""
    if "allOf" in field:
        return ", ".join(f"`{choice}`" for choice in schemas[field["allOf"][0]["$ref"].rpartition("/")[2]]["enum"])
    if field.get("format") == "uri":
        return "file"
    if field["type"] == "array":
        return "files"
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
    return pattern.sub(lambda found: f"{found[1]}{content.strip()}\n{found[2]}", text)


SECTIONS: dict[str, tuple[str, Callable[[], str]]] = {
    "docs/inputs.md": ("inputs", input_table),
}


def outdated() -> dict[Path, str]:
    """Pages whose generated section differs from what it should be, with their new text."""
    found = {}
    for name, (section, render) in SECTIONS.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if (new := replace_section(text, section, render())) != text:
            found[path] = new
    return found


def main() -> int:
    """Command line; with --check the exit status is 1 if a page is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="name pages that are out of date and change nothing")
    check = parser.parse_args().check
    pages = outdated()
    for path, text in pages.items():
        sys.stderr.write(f"{path.relative_to(ROOT)} {'is out of date' if check else 'rewritten'}\n")
        if not check:
            path.write_text(text, encoding="utf-8")
    return 1 if check and pages else 0


if __name__ == "__main__":
    sys.exit(main())
