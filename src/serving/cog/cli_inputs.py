"""The inputs of a command line, in the syntax of `cog predict`: `-i name=value`, `-i name=@file`."""

import base64
import math
import mimetypes
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

BODY_LIMIT = 100 * 2**20
TRUE, FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}

Schema = Mapping[str, Any]


def read_inputs(
    tokens: Iterable[str], document: Schema, read_file: Callable[[str, str], Any] | None = None
) -> dict[str, Any]:
    """JSON values for `name=value` tokens, converted to the types of the OpenAPI `document`.

    `read_file` makes of a file's name and text what shall stand for it; a data URI or the URL by default.
    Raises ValueError, which names the input, for an unknown name, a token without `=`, a name
    given twice, a value of the wrong type, a missing file or a missing required input.
    """
    read_file = read_file or file_or_url
    schemas = document["components"]["schemas"]
    properties = schemas["Input"]["properties"]
    inputs: dict[str, Any] = {}
    for token in tokens:
        name, equals, text = token.partition("=")
        if not equals:
            raise ValueError(f"-i {token}: write it as name=value, or name=@file for a file")
        if name not in properties:
            raise ValueError(f"{name}: no such input; the inputs are {', '.join(properties)}")
        if properties[name].get("type") == "array":
            inputs.setdefault(name, []).append(convert(name, text, properties[name]["items"], read_file))
        elif name in inputs:
            raise ValueError(f"{name}: given twice")
        else:
            inputs[name] = convert(name, text, resolve(properties[name], schemas), read_file)
    if missing := [name for name in schemas["Input"].get("required", []) if name not in inputs]:
        raise ValueError(f"{missing[0]}: this input is required; give it as -i {missing[0]}=...")
    return inputs


def resolve(field: Schema, schemas: Schema) -> Schema:
    """The schema that holds the type: the enumeration for an input with choices."""
    if "allOf" not in field:
        return field
    enum: Schema = schemas[field["allOf"][0]["$ref"].rpartition("/")[2]]
    return enum


def convert(name: str, text: str, field: Schema, read_file: Callable[[str, str], Any]) -> Any:
    """One value as the schema's type wants it."""
    kind = field["type"]
    if field.get("format") == "uri":
        return read_file(name, text)
    if kind == "boolean" and text.lower() in TRUE | FALSE:
        return text.lower() in TRUE
    if kind in {"integer", "number"}:
        return number(name, text, whole=kind == "integer")
    if kind == "string":
        return text
    raise ValueError(f"{name}: {text!r} is not true or false")


def number(name: str, text: str, *, whole: bool) -> int | float:
    """A finite number; a whole one may be written `3.0` as well."""
    what = "a whole number" if whole else "a number"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is not {what}") from None
    if not math.isfinite(value) or (whole and not value.is_integer()):
        raise ValueError(f"{name}: {text!r} is not {what}")
    return int(value) if whole else value


def file_or_url(name: str, text: str) -> str:
    """`@path` as a data URI; an http, https or data URL as it stands."""
    if text.startswith("@"):
        path = Path(text[1:]).expanduser()
        if not path.is_file():
            raise ValueError(f"{name}: there is no file {text[1:]!r}")
        return data_uri(path)
    if text.startswith(("http://", "https://", "data:")):
        return text
    raise ValueError(f"{name}: {text[:80]!r} is no URL; for a file write {name}=@path")


def data_uri(path: Path) -> str:
    """The file as a data URI with its MIME type; ValueError where the server would refuse its size."""
    size = path.stat().st_size
    if size * 4 // 3 > BODY_LIMIT:
        raise ValueError(
            f"{path}: {size / 2**20:.0f} MiB are too large to send; the server takes "
            f"{BODY_LIMIT // 2**20} MiB a request, files grow by a third, so give a URL instead"
        )
    kind = mimetypes.guess_type(path.name, strict=False)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
