"""Typed access to the fields of a request whose names differ from the inputs of predict()."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from src.errors import InputError
from src.serving.validation import ValidationError, shown, validate_value


def translate_names(text: str, names: Mapping[str, str]) -> str:
    """Replace input names by field names in an error message, except within paths and quoted values."""
    words = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![\w./'-])({words})(?![\w./'-])", lambda match: names[match[1]], text)


class FieldReader:
    """Reads and checks the fields of a request one by one. A field that is null counts as absent."""

    def __init__(self, fields: Mapping[str, Any], known: Iterable[str]) -> None:
        """InputError for an unknown field."""
        self.fields = fields
        self.known = tuple(known)
        if unknown := [name for name in fields if name not in self.known]:
            raise InputError(f"{shown(unknown[0])} is an unknown field; allowed are {', '.join(self.known)}")

    def has(self, name: str) -> bool:
        """Whether the field is present."""
        return self.fields.get(name) is not None

    def string(self, name: str, default: str | None = None, allowed: tuple[str, ...] = ()) -> str | None:
        """A string, or one of those allowed."""
        schema = {"type": "string"} | ({"enum": allowed} if allowed else {})
        value: str | None = self.read(name, schema, default)
        return value

    def required_string(self, name: str, description: str) -> str:
        """A string that must be present and not empty; `description` says in the error what is needed."""
        value = self.string(name)
        if not value:
            raise InputError(f"{name} is missing; {description} is needed")
        return value

    def integer(self, name: str, default: int | None, minimum: int, maximum: int) -> int | None:
        """An integer within bounds."""
        value: int | None = self.read(name, {"type": "integer", "minimum": minimum, "maximum": maximum}, default)
        return value

    def number(self, name: str, default: float | None, minimum: float, maximum: float) -> float | None:
        """A number within bounds."""
        value: float | None = self.read(name, {"type": "number", "minimum": minimum, "maximum": maximum}, default)
        return value

    def boolean(self, name: str, default: bool) -> bool:
        """True or false."""
        value: bool = self.read(name, {"type": "boolean"}, default)
        return value

    def read(self, name: str, schema: Mapping[str, Any], default: Any) -> Any:
        """The field's value, converted and checked by a JSON schema; the default when it is absent."""
        value = self.fields.get(name)
        if value is None:
            return default
        try:
            return validate_value(name, value, schema)
        except ValidationError as error:
            raise InputError(str(error)) from error
