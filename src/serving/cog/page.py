"""What a browser sees at the server's root: what this is, how to ask, and the documentation in docs/."""

import html
from pathlib import Path
from string import Template

from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from src.serving.validation import Schema

DOCS = Path(__file__).resolve().parents[3] / "docs"
TEMPLATE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".gif": "image/gif", ".mp4": "video/mp4"}


def index(document: Schema) -> Response:
    """The page, with the inputs of the predictor."""
    fields = document["components"]["schemas"]["Input"]["properties"]
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(field['description'])}</td></tr>\n"
        for name, field in fields.items()
    )
    pages = "".join(
        f'<li><a href="/docs/{path.name}">{html.escape(title_of(path))}</a></li>\n'
        for path in sorted(DOCS.glob("*.md"))
    )
    return HTMLResponse(TEMPLATE.substitute(inputs=rows, pages=pages))


def document(name: str) -> Response:
    """A file of docs/ by its name; Markdown as plain text, which every browser shows."""
    path = next((path for path in DOCS.glob("*") if path.name == name), None)
    if path is None or path.suffix not in {".md", *MEDIA_TYPES}:
        return PlainTextResponse("there is no such page", 404)
    return FileResponse(path, media_type=MEDIA_TYPES.get(path.suffix, "text/plain; charset=utf-8"))


def title_of(path: Path) -> str:
    """The first heading of a page."""
    with path.open(encoding="utf-8") as lines:
        return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), path.stem)
