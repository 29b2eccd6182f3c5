"""Fields of requests: those that are lists, and error messages in terms of a request's own field names."""

import re
from collections.abc import Mapping
from typing import Any

FILE_LISTS = ("person_masks", "conditioning_audio", "lora_files")
"""The inputs of predict() that are lists of files."""
LORAS = "loras"
LIST_FIELDS: Mapping[str, Any] = {name: {"type": "array", "items": {"type": "string"}} for name in (*FILE_LISTS, LORAS)}
"""The inputs of predict() that are lists, as fields of a request with the same names."""


def translate_names(text: str, names: Mapping[str, str]) -> str:
    """Replace the inputs of predict() by a request's field names, except within paths and quoted values."""
    words = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![\w./'-])({words})(?![\w./'-])", lambda match: names[match[1]], text)


def file_lists(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Those of FILE_LISTS that a request has, by name; an empty list is left out."""
    return {name: values[name] for name in FILE_LISTS if values.get(name)}


def lora_list(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """`loras` by its name, if the request has it."""
    return {LORAS: values[LORAS]} if values.get(LORAS) else {}
