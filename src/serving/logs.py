"""Logging setup: plain lines, or one JSON object per line with the id of the request.

Under Cog lines stay plain: Cog's server wraps them in JSON with its `prediction_id` (LOG_FORMAT=json).
"""

import json
import logging
import traceback
from datetime import UTC, datetime

from src.environment import Environ, read_choice
from src.serving.cancellation import current_request_id

FORMATS = ("text", "json")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
OWN_LOGGERS = ("multitalk", "predict", "app", "deploy", "src", "wan", "weights")


class JsonFormatter(logging.Formatter):
    """One JSON object per line; `extra={"fields": {...}}` of a log call adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request": current_request_id(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps({name: value for name, value in fields.items() if value is not None}, ensure_ascii=False)


def configure(environ: Environ) -> None:
    """Configure the root logger from MULTITALK_LOG and MULTITALK_LOG_LEVEL; ValueError for other values than allowed.

    The level applies to this project's loggers. Libraries stay at INFO or above: their DEBUG lines may hold
    personal data.
    """
    line_format = read_choice(environ, "MULTITALK_LOG", FORMATS, "text")
    level = read_choice(environ, "MULTITALK_LOG_LEVEL", LEVELS, "INFO")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if line_format == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(level=max(logging.INFO, logging.getLevelName(level)), handlers=[handler], force=True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level)
