"""The inputs of a request, as predict.py declares them: schema, defaults and validation, without Cog."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from src.errors import InputError
from src.media.persons.masks import MAX_PERSONS
from src.serving.cog.schema import Schema, openapi
from src.serving.validation import validate
from src.storage.settings import LORA_FILES, DownloadLimits

MAX_LORAS = 8
PREDICT_FILE = Path(__file__).parents[1] / "predict.py"


@cache
def input_schema() -> Schema:
    """The OpenAPI document of predict.py, read from its source text."""
    return openapi(PREDICT_FILE.read_text(encoding="utf-8"))


@cache
def file_inputs() -> tuple[str, ...]:
    """Names of the inputs that are files or lists of files."""
    properties = input_schema()["components"]["schemas"]["Input"]["properties"]
    return tuple(name for name, field in properties.items() if "uri" in (field | field.get("items", {})).values())


def validate_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Every input of `predict()`, with the schema's default where it is absent or None.

    Files may be `Path`s. Raises `ValidationError` (a ValueError) for an unknown name, a missing required input,
    a value of the wrong type or out of range.
    """
    return validate(inputs, input_schema())


def check_files(files: Mapping[str, Any], limits: DownloadLimits) -> None:
    """InputError for LoRAs that the operator does not allow, and for a list of more files than can be used.

    Called before anything is fetched.
    """
    for name, value in files.items():
        if isinstance(value, str):
            continue
        if name == LORA_FILES and value:
            check_lora_files_allowed(limits.lora_files)
        max_files = MAX_LORAS if name == LORA_FILES else MAX_PERSONS
        if len(value) > max_files:
            raise InputError(f"{name} has {len(value):,} files; at most {max_files} are allowed")


def check_lora_files_allowed(allowed: bool) -> None:
    """InputError unless the operator allows LoRAs of requests."""
    if not allowed:
        raise InputError(
            f"{LORA_FILES} is given, but this server takes only LoRAs that the operator has installed, named in loras "
            "(MULTITALK_LORA_FILES=1 lets the operator allow others)"
        )
