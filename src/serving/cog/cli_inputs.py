"""Inputs of a command line in the syntax of `cog predict`: `-i name=value`, `-i name=@file`."""

import base64
import mimetypes
import shutil
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from src.errors import truncated_repr
from src.serving.validation import Schema, resolve, validate

MAX_BODY_BYTES = 100 * 2**20
"""The largest request body that Cog's server accepts."""
BOOLEANS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)

ReadFile = Callable[[str, str], Any]


def read_inputs(tokens: Iterable[str], document: Schema, read_file: ReadFile | None = None) -> dict[str, Any]:
    """The inputs in `name=value` tokens, valid by the OpenAPI `document` and converted to its types.

    `read_file` converts the name and the text of a file input; by default to a data URI, or to the URL itself.
    Raises ValueError, which names the input, for a token without `=`, a name given twice, a missing file, and
    whatever `validate` refuses.
    """
    properties = document["components"]["schemas"]["Input"]["properties"]
    inputs: dict[str, Any] = {}
    for token in tokens:
        name, equals, text = token.partition("=")
        if not equals:
            raise ValueError(f"-i {token}: write it as name=value, or name=@file for a file")
        field = resolve(properties.get(name, {}), document)
        if field.get("type") == "array":
            inputs.setdefault(name, []).append(parse_value(name, text, field["items"], read_file or file_or_url))
        elif name in inputs:
            raise ValueError(f"{name} is given twice; once is allowed")
        else:
            inputs[name] = parse_value(name, text, field, read_file or file_or_url)
    values = validate(inputs, document)
    return {name: values[name] for name in inputs}


def parse_value(name: str, text: str, field: Schema, read_file: ReadFile) -> Any:
    """The JSON value that `text` stands for by the field's type; the text itself if it stands for none."""
    if field.get("format") == "uri":
        return read_file(name, text)
    if field.get("type") == "boolean":
        return BOOLEANS.get(text.lower(), text)
    if field.get("type") in {"integer", "number"}:
        try:
            return float(text)
        except ValueError:
            return text
    return text


def file_or_url(name: str, text: str) -> str:
    """`@path` as a data URI; an http, https or data URL unchanged."""
    if text.startswith("@"):
        path = Path(text[1:]).expanduser()
        if not path.is_file():
            raise ValueError(f"{name}: there is no file {text[1:]!r}")
        return data_uri(path)
    if text.startswith(("http://", "https://", "data:")):
        return text
    raise ValueError(f"{name} is {truncated_repr(text)}, which is not a URL; for a file write {name}=@path")


def data_uri(path: Path) -> str:
    """The file as a data URI with its MIME type; ValueError if it exceeds the server's limit."""
    size = path.stat().st_size
    if size * 4 // 3 > MAX_BODY_BYTES:
        raise ValueError(
            f"{path}: {size / 2**20:.0f} MiB are too large to send; the server accepts "
            f"{MAX_BODY_BYTES // 2**20} MiB a request, and base64 adds a third: give a URL instead"
        )
    mime_type = mimetypes.guess_type(path.name, strict=False)[0] or "application/octet-stream"
    return f"data:{mime_type};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def describe_inputs(document: Schema) -> str:
    """The predictor's inputs as text: name, kind of value, bounds, choices, default, description."""
    schema = document["components"]["schemas"]["Input"]
    width = min(100, shutil.get_terminal_size().columns - 2)
    lines = ["inputs, as NAME=VALUE:"]
    for name, field in schema["properties"].items():
        field = resolve(field, document)
        required = name in schema.get("required", ())
        lines.append(f"  {name}={describe_value(field)}{'  (required)' if required else describe_default(field)}")
        lines += textwrap.wrap(field.get("description", ""), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def describe_value(field: Schema) -> str:
    """What may be written for an input: `@FILE or URL`, a number with its bounds, the choices."""
    if "enum" in field:
        return "|".join(map(str, field["enum"]))
    if field["type"] == "array":
        return f"{describe_value(field['items'])}, may be repeated"
    if field.get("format") == "uri":
        return "@FILE or URL"
    kind = {"integer": "whole number", "number": "number", "boolean": "true|false"}.get(field["type"], "text")
    low, high = field.get("minimum"), field.get("maximum")
    if low is None and high is None:
        return kind
    return f"{kind} {f'from {low:,}' if high is None else f'up to {high:,}' if low is None else f'{low:,} to {high:,}'}"


def describe_default(field: Schema) -> str:
    """The default in parentheses, as it would be written; empty if an absent input has no value."""
    default = field.get("default")
    if default is None:
        return ""
    return f"  (default: {str(default).lower() if isinstance(default, bool) else default})"
