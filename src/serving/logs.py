"""The log: plain lines, or one JSON object a line with the id of its request.

Under Cog lines stay plain, since Cog's server writes the JSON, with its `prediction_id` (LOG_FORMAT=json).
"""

import json
import logging
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime

from src.serving.cancellation import current_request_id

FORMATS = ("text", "json")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
OURS = ("multitalk", "predict", "deploy", "src", "wan", "weights")


class JsonFormatter(logging.Formatter):
    """One object a line; what a call passes as `extra={"fields": {...}}` stands beside the rest."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request": current_request_id(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps({name: value for name, value in line.items() if value is not None}, ensure_ascii=False)


def configure(environ: Mapping[str, str]) -> None:
    """Set up the process's log from MULTITALK_LOG and MULTITALK_LOG_LEVEL; ValueError for what they cannot be.

    The level is that of our own code; libraries, which do not know what is personal, stay at INFO or above.
    """
    form = choice(environ, "MULTITALK_LOG", FORMATS)
    level = choice(environ, "MULTITALK_LOG_LEVEL", LEVELS, default="INFO")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(level=max(logging.INFO, logging.getLevelName(level)), handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(level)


def choice(environ: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    """A variable's value, the first of those allowed when it is not set."""
    value = environ.get(name, default or allowed[0])
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
    return value
