"""Validate a request's inputs against a JSON schema, convert them to their types and fill in defaults."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema import ValidationError as Violation
from jsonschema.validators import extend

from src.errors import InputError, truncated_repr

Schema = Mapping[str, Any]

TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
}


class ValidationError(InputError):
    """An input violates the schema. The message names the input, its value and what is allowed."""


def validate(inputs: Mapping[str, Any], document: Schema) -> dict[str, Any]:
    """Every input of the predictor that the OpenAPI `document` describes; see `validate_object`."""
    components = document["components"]
    return validate_object(inputs, {**components["schemas"]["Input"], "components": components})


def validate_object(values: Mapping[str, Any], schema: Schema, noun: str = "input") -> dict[str, Any]:
    """Every property of `schema`, converted to its type; its default (else None) where it is absent or None.

    A file may be a string or a Path. Raises ValidationError for an unknown or missing property, a value of the wrong
    type (booleans are no numbers, 3.0 is an integer, numbers are finite), out of bounds or not among the choices.
    `noun` is what the message calls a property.
    """
    properties = schema["properties"]
    present = {name: value for name, value in values.items() if value is not None or name not in properties}
    strict = {"additionalProperties": False, "properties": properties, **schema}  # the first violation is reported
    for violation in _Validator(strict).iter_errors(present):
        raise ValidationError(describe(violation, noun))
    for name, value in present.items():
        check_characters(name, value)
    return {
        name: _convert(present[name], resolve(field, schema)["type"]) if name in present else field.get("default")
        for name, field in properties.items()
    }


def check_characters(name: str, value: Any) -> None:
    """ValidationError for text, also in a list, with a lone surrogate: JSON can express one, but no encoding can."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValidationError(
                    f"{name} holds U+{ord(text[error.start]):04X}, one half of a character, at position "
                    f"{error.start:,}; complete characters are needed"
                ) from error


def resolve(field: Schema, document: Schema) -> Schema:
    """A property merged with the enumeration that it refers to, if it has choices."""
    if "allOf" not in field:
        return field
    name = field["allOf"][0]["$ref"].rpartition("/")[2]
    return {**document["components"]["schemas"][name], **field}


def describe(violation: Violation, noun: str) -> str:
    """A violation of the schema as a sentence: which property, what its value is, what is allowed."""
    name = next(iter(violation.absolute_path), "")
    value: Any = violation.instance
    schema: Any = violation.schema
    limit: Any = violation.validator_value
    match violation.validator:
        case "additionalProperties":
            unknown = next(key for key in value if key not in schema["properties"])
            return f"{truncated_repr(unknown)} is not an {noun}; allowed are {', '.join(schema['properties'])}"
        case "required":
            return f"{next(key for key in limit if key not in value)} is missing; it is required"
        case "type":
            return f"{name} is {truncated_repr(value)}; {TYPES[limit]} is needed"
        case "enum":
            return f"{name} is {truncated_repr(value)}; allowed are {', '.join(map(str, limit))}"
        case "minimum" | "maximum":
            return f"{name} is {value:.12g}; allowed is {describe_bounds(schema)}"
        case "minLength" | "maxLength":
            allowed = f"at least {limit:,}" if violation.validator == "minLength" else f"at most {limit:,}"
            return f"{name} has {len(value):,} characters; allowed are {allowed}"
    return f"{name}: {violation.message}"


def describe_bounds(field: Schema) -> str:
    """The range of a number with a minimum, a maximum or both."""
    if "maximum" not in field:
        return f"{field['minimum']:.12g} or more"
    if "minimum" not in field:
        return f"{field['maximum']:.12g} or less"
    return f"{field['minimum']:.12g} to {field['maximum']:.12g}"


def _is_number(_: Any, value: Any) -> bool:
    """Whether a value is a finite number within the range of a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_integer(checker: Any, value: Any) -> bool:
    return _is_number(checker, value) and math.trunc(value) == value


def _is_text(_: Any, value: Any) -> bool:
    return isinstance(value, str | Path)


def _convert(value: Any, kind: str) -> Any:
    if kind == "integer":
        return int(value)
    return float(value) if kind == "number" else value


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"number": _is_number, "integer": _is_integer, "string": _is_text}
    ),
)
