"""What the gateway checks and changes in the body of a prediction request before Cog's server reads it."""

import difflib
import json
import re
from typing import Any
from urllib.parse import urlsplit

from src.errors import truncated_repr
from src.serving.validation import Schema

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
ID_RULE = "1 to 64 letters, digits, dashes and underscores are allowed"
FIELDS = ("id", "input", "webhook", "webhook_events_filter", "context", "output_file_prefix", "created_at")
MIN_SIMILARITY = 0.8
MAX_URL_CHARS = 2048
MAX_COMMAS = 100_000
"""A parsed value takes up to 70 bytes for the two that it has in the body: 100 MiB of them would take gigabytes."""
FETCH_PREFIX = "fetch:"
"""Marks a URL that the predictor fetches; Cog would fetch any address itself, without limits."""
FETCHED_SCHEMES = ("http:", "https:", "data:")


class RefusedError(Exception):
    """A request that is not forwarded. The message says what was sent and what is allowed; `loc` where, as in Cog's
    own answers."""

    def __init__(self, status: int, message: str, *loc: str) -> None:
        super().__init__(message)
        self.status = status
        self.loc = loc


def parse_body(data: bytes | bytearray) -> dict[str, Any]:
    """The JSON object of a request. RefusedError for anything else: Cog would also read a list by position."""
    if data.count(b",") > MAX_COMMAS:
        raise RefusedError(413, f"the request body has more than {MAX_COMMAS:,} commas; no request needs as many")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the request body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RefusedError(422, f"the request body is {truncated_repr(body)}; an object with `input` is needed", "body")
    return body


def check_id(prediction_id: object, *loc: str) -> str:
    """A prediction id that is safe as the name of a folder; RefusedError for any other."""
    if not isinstance(prediction_id, str) or not ID.fullmatch(prediction_id):
        raise RefusedError(422, f"the prediction id is {truncated_repr(prediction_id)}; {ID_RULE}", *loc)
    return prediction_id


def check_fields(body: dict[str, Any]) -> None:
    """RefusedError for a misspelled field of the request. Cog ignores other unknown ones, which its clients send."""
    for name in body.keys() - FIELDS:
        if close := difflib.get_close_matches(name[:100], FIELDS, 1, MIN_SIMILARITY):
            raise RefusedError(422, f"not a field; did you mean {close[0]}?", "body", name[:100])


def check_webhook(webhook: object) -> None:
    """RefusedError for an address that cannot be called: Cog itself would accept it, and never call it."""
    if not isinstance(webhook, str):
        return  # Cog refuses other types
    try:
        parts = urlsplit(webhook)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or len(webhook) > MAX_URL_CHARS or not webhook.isprintable() or " " in webhook:
        raise RefusedError(
            422,
            f"the webhook is {truncated_repr(webhook)}; a URL like https://example.org/done is needed",
            "body",
            "webhook",
        )


def check_input_names(inputs: object, document: Schema) -> None:
    """RefusedError for an input that the schema does not have: Cog itself would ignore it silently."""
    properties = document["components"]["schemas"]["Input"]["properties"]
    for name in inputs if isinstance(inputs, dict) else ():
        if name not in properties:
            close = difflib.get_close_matches(name[:100], properties, 1)
            similar = f"; did you mean {close[0]}?" if close else ""
            allowed = f"allowed are {', '.join(properties)}"
            raise RefusedError(422, f"not an input{similar}; {allowed}", "body", "input", name[:100])


def defer_files(inputs: object, document: Schema) -> object:
    """The inputs with FETCH_PREFIX before the URLs of files, so that the predictor fetches them and not Cog."""
    if not isinstance(inputs, dict):
        return inputs
    properties = document["components"]["schemas"]["Input"]["properties"]
    return {name: defer(value) if is_file(properties.get(name, {})) else value for name, value in inputs.items()}


def defer(value: object) -> object:
    """A URL with FETCH_PREFIX; also in a list."""
    if isinstance(value, list):
        return [defer(item) for item in value]
    if isinstance(value, str) and value.lstrip().lower().startswith(FETCHED_SCHEMES):
        return FETCH_PREFIX + value.strip()
    return value


def is_file(field: Schema) -> bool:
    """Whether a property is a file or a list of files."""
    return "uri" in (field.get("format"), field.get("items", {}).get("format"))
