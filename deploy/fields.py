"""Error messages in terms of a request's own field names."""

import re
from collections.abc import Mapping


def translate_names(text: str, names: Mapping[str, str]) -> str:
    """Replace the inputs of predict() by a request's field names, except within paths and quoted values."""
    words = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![\w./'-])({words})(?![\w./'-])", lambda match: names[match[1]], text)
