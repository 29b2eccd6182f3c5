"""The interface of the predictor's inputs, which `tests/input_schema.json` records: callers rely on it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.serving.cog.schema import Schema

SNAPSHOT = Path(__file__).parents[1] / "tests/input_schema.json"
KEYWORDS = {"type", "format", "items", "allOf", "minimum", "maximum", "minLength", "maxLength", "default", "nullable"}

Interface = Sequence[dict[str, Any]]


def interface(document: Schema) -> list[dict[str, Any]]:
    """Names, types, bounds, choices and defaults of the inputs in order; descriptions may change."""
    schemas = document["components"]["schemas"]
    required = schemas["Input"].get("required", [])
    return [
        {
            "name": name,
            "required": name in required,
            **({"choices": schemas[name]["enum"]} if "allOf" in field else {}),
            **{key: field[key] for key in sorted(KEYWORDS & field.keys())},
        }
        for name, field in sorted(schemas["Input"]["properties"].items(), key=lambda item: item[1]["x-order"])
    ]


def incompatibilities(before: Interface, after: Interface) -> list[str]:
    """What breaks callers of `before`; only optional inputs may be added, at the end."""
    old, new = ({field["name"]: field for field in fields} for fields in (before, after))
    if removed := [name for name in old if name not in new]:
        return [f"{name} was removed" for name in removed]
    if list(new)[: len(old)] != list(old):
        return ["the order has changed"]
    changed = [f"{name} has changed" for name in old if new[name] != old[name]]
    return changed + [f"{name} must be optional" for name in new if name not in old and new[name]["required"]]


def render_snapshot(document: Schema) -> str:
    """The new content of the snapshot. ValueError if its difference to the present one breaks callers."""
    after = interface(document)
    if changes := incompatibilities(json.loads(SNAPSHOT.read_text(encoding="utf-8")), after):
        raise ValueError(f"predict.py breaks its callers: {'; '.join(changes)}")
    return json.dumps(after, indent=2) + "\n"
