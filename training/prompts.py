"""Prompts of rendered scenes: phrases that the image follows, among words that it does not.

All other words, order and punctuation are independent of the image, so that the model learns to ignore them.
"""

from collections.abc import Sequence

import numpy as np

EXPRESSIONS = ("eyes closed", "eyebrows raised")
"""Phrases that flat drawings follow."""
SHADED_EXPRESSIONS = (*EXPRESSIONS, "smiling")
BACKGROUNDS = ("red background", "green background", "blue background")
NIGHT, DAY = "at night", "by day"
SHADED_PHRASES = (*SHADED_EXPRESSIONS, *BACKGROUNDS, NIGHT, DAY)
"""Phrases that shaded drawings follow."""

_ONE = ("A person", "Somebody", "A cartoon character", "A drawn face", "One friend", "A woman", "A man")
_TWO = ("Two people", "Two friends", "Anna and Ben", "Two cartoon characters", "They", "People")
_VERBS = ("talking", "speaking", "chatting", "in conversation", "telling a story", "talk naturally", "says hello")
_PLACES = ("", "", " in a room", " before a wall", " outside", " in the studio", " at home", ", close up,")
IDLE = (
    "lively faces",
    "small gestures",
    "while the camera stands still",
    "soft light",
    "eyes wide open",
    "blue eyes",
    "raised voices",
    "the door is closed",
    "thick eyebrows",
    "closed captions",
    "high quality",
    "the sun is setting",
    "in good spirits",
    "blurred, distorted, flickering",
)
SHADED_IDLE = (*IDLE, "a blue shirt", "green eyes", "red hair", "a story of one night", "have a good day", "no smiles")


def sample_prompt(
    rng: np.random.Generator, persons: int, phrases: Sequence[str], idle_phrases: Sequence[str] = IDLE
) -> str:
    """Sample a prompt with `phrases`, which the image follows."""
    subjects = _TWO if persons == 2 else _ONE
    idle = rng.choice(idle_phrases, size=rng.integers(0, 3), replace=False).tolist()
    shuffled = [str(phrase) for phrase in rng.permutation([*phrases, *idle])]
    opening = f"{rng.choice(subjects)} {rng.choice(_VERBS)}{rng.choice(_PLACES)}"
    separator = str(rng.choice([", ", " and ", "; ", ", with "]))
    return separator.join([opening, *shuffled]) + str(rng.choice([".", "", "!"]))
