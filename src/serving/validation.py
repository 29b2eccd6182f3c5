"""The inputs of a request that comes by another way than Cog's server: checked by the same schema, defaults put in."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.serving.cog.cli_inputs import Schema, resolve

SHOWN = 80


class ValidationError(ValueError):
    """A request's inputs are not what the schema allows: which one, what it is, what is allowed."""


def validate(inputs: Mapping[str, Any], document: Schema) -> dict[str, Any]:
    """Every input of the predictor, in its type. None stands for an optional one that is not given.

    Raises ValidationError for an unknown name, a missing required input, a wrong type, a value out of bounds.
    """
    schemas = document["components"]["schemas"]
    properties = schemas["Input"]["properties"]
    if unknown := [name for name in inputs if name not in properties]:
        raise ValidationError(f"{shown(unknown[0])} is no input; allowed are {', '.join(properties)}")
    required = schemas["Input"].get("required", [])
    if missing := [name for name in required if inputs.get(name) is None]:
        raise ValidationError(f"{missing[0]} is missing; it is required")
    return {name: value_or_default(name, inputs.get(name), field, schemas) for name, field in properties.items()}


def value_or_default(name: str, value: Any, field: Schema, schemas: Schema) -> Any:
    """One value, or its default."""
    if value is None:
        return field.get("default")
    return validate_value(
        name, value, {**resolve(field, schemas), **{key: field[key] for key in field if key != "allOf"}}
    )


def validate_value(name: str, value: Any, field: Schema) -> Any:
    """A value that the field of the schema allows; for a file also a path, which is no value of JSON."""
    kind = field["type"]
    if kind == "array" and isinstance(value, list):
        return [validate_value(name, item, field["items"]) for item in value]
    if field.get("format") == "uri" and isinstance(value, Path):
        return value
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "string" and isinstance(value, str):
        if value not in field.get("enum", [value]):
            raise ValidationError(f"{name} is {shown(value)}; allowed are {', '.join(field['enum'])}")
        return value
    if kind in {"integer", "number"} and is_number(value) and (kind == "number" or float(value).is_integer()):
        low, high = field.get("minimum", -math.inf), field.get("maximum", math.inf)
        if not low <= value <= high:
            raise ValidationError(f"{name} is {value:.12g}; allowed is {bounds(low, high)}")
        return int(value) if kind == "integer" else float(value)
    raise ValidationError(f"{name} is {shown(value)}; {KINDS[kind]} is needed")


KINDS = {
    "array": "a list",
    "boolean": "true or false",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
}


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number that a float can hold; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def bounds(low: float, high: float) -> str:
    """What lies between two bounds, of which the upper may be infinite."""
    return f"{low:g} or more" if high == math.inf else f"{low:g} to {high:.12g}"


def shown(value: Any) -> str:
    """A value as a message repeats it: only the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
