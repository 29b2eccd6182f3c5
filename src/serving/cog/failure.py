"""The error message of a failed prediction as one sentence."""

import json
import re
from typing import Any

MAX_QUOTED_CHARS = 200
PREFIX = "Prediction failed: "
CALLER_ERRORS = re.compile(r"(Input|Validation|TimeLimit|Value|Runtime|Storage|Disk|Checkpoint|OS)Error: ")
"""Types whose message is a sentence by itself."""


def plain_error(text: str) -> str:
    """The message without the prefixes that Cog's server and worker each add, and without the type of our errors."""
    while text.startswith(PREFIX):
        text = text.removeprefix(PREFIX)
    return CALLER_ERRORS.sub("", text, count=1) if CALLER_ERRORS.match(text) else text


def simplify_answer(data: bytes) -> bytes:
    """An answer of Cog with its error as one sentence, and the values that it refuses cut; other data as it is."""
    try:
        answer: Any = json.loads(data)
        if "error" in answer:
            answer["error"] = plain_error(answer["error"])
        for problem in answer.get("detail", ()):
            problem["msg"] = truncate_middle(problem["msg"])
        return json.dumps(answer).encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        return data


def truncate_middle(text: str) -> str:
    """Both ends of a long message: it begins with the value and ends with what is allowed."""
    return text if len(text) <= MAX_QUOTED_CHARS else f"{text[:80]} ... {text[-110:]}"
