"""Fields of a request in a form that is not the predictor's: read one by one, each with its bounds."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from src.errors import InputError, truncated_repr
from src.serving.validation import validate_object


def translate_names(text: str, names: Mapping[str, str]) -> str:
    """A message with the predictor's names for inputs as the caller knows them; within paths and quotes they stay."""
    words = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![\w./'-])({words})(?![\w./'-])", lambda found: names[found[1]], text)


class FieldReader:
    """What a request says, and which fields have been asked for; the rest is unknown."""

    def __init__(self, fields: Mapping[str, Any], known: Iterable[str]) -> None:
        """InputError for a field that the form does not know."""
        self.fields = fields
        self.known = tuple(known)
        if unknown := [name for name in fields if name not in self.known]:
            raise InputError(f"{truncated_repr(unknown[0])} is an unknown field; allowed are {', '.join(self.known)}")

    def text(self, name: str, default: str | None = None, allowed: tuple[str, ...] = ()) -> str | None:
        """A text, or one of those allowed."""
        field = {"type": "string"} | ({"enum": allowed} if allowed else {})
        value: str | None = self.value(name, field, default)
        return value

    def needed(self, name: str, what: str) -> str:
        """A text that must be there."""
        value = self.text(name)
        if not value:
            raise InputError(f"{name} is missing; {what} is needed")
        return value

    def whole(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number."""
        value: int | None = self.value(name, {"type": "integer", "minimum": low, "maximum": high}, default)
        return value

    def number(self, name: str, default: float | None, low: float, high: float) -> float | None:
        """A number."""
        value: float | None = self.value(name, {"type": "number", "minimum": low, "maximum": high}, default)
        return value

    def switch(self, name: str, default: bool) -> bool:
        """True or false."""
        value: bool = self.value(name, {"type": "boolean"}, default)
        return value

    def value(self, name: str, field: Mapping[str, Any], default: Any) -> Any:
        """A field's value as the schema wants it; null is as good as absent."""
        given = self.fields.get(name)
        return default if given is None else validate_object({name: given}, {"properties": {name: field}})[name]

    def has(self, name: str) -> bool:
        """Whether the request gives the field."""
        return self.fields.get(name) is not None
