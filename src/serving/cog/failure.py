"""The error message of a failed prediction as one sentence."""

import re

PREFIX = "Prediction failed: "
CALLER_ERRORS = re.compile(r"(Input|Validation|TimeLimit|Value|Runtime|Storage|Checkpoint|OS)Error: ")
"""Types whose message is a sentence by itself."""


def plain_error(text: str) -> str:
    """The message without the prefixes that Cog's server and worker each add, and without the type of our errors."""
    while text.startswith(PREFIX):
        text = text.removeprefix(PREFIX)
    return CALLER_ERRORS.sub("", text, count=1) if CALLER_ERRORS.match(text) else text
