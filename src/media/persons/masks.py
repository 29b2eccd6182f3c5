"""Where the people are in a picture, from boxes or drawn masks: one mask for each of the two whom the model knows.

H x W of the picture, bool.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from src.errors import InputError, truncated_repr
from src.media.image import read_mask
from src.media.persons.boxes import EXAMPLE, Box, parse_boxes

PersonMasks = tuple[np.ndarray, np.ndarray]
MAX_PEOPLE = 10


def person_masks(
    boxes: str | None, masks: Sequence[Path], *, width: int, height: int, voices: int
) -> PersonMasks | None:
    """Masks H x W of the first and the second person, or None where neither boxes nor masks are given.

    The first two boxes or masks are those of the people with voices, in the order of the voices. With two voices
    everybody further is background, and what is theirs is nobody else's. With one voice everybody further listens, and
    if only the speaker is given, so does all the rest of the picture.
    Raises InputError for boxes and masks together, for too few or too many, and as `parse_boxes` and `read_mask` do.
    """
    has_boxes = bool(boxes and boxes.strip())
    if has_boxes and masks:
        raise InputError(
            f"person_boxes is {truncated_repr(boxes or '')}, and person_masks has {len(masks)}; "
            "only one of them is allowed"
        )
    if has_boxes:
        rectangles = parse_boxes(boxes or "", width=width, height=height)
        _check_count(
            len(rectangles), voices, f"person_boxes is {truncated_repr(boxes or '')}, which is {len(rectangles)}"
        )
        return _assign((_box_mask(box, height, width) for box in rectangles), voices)
    if masks:
        _check_count(len(masks), voices, f"person_masks has {len(masks)}")
        names = (f"person_masks (number {number})" for number in range(1, len(masks) + 1))
        return _assign(_read_masks(masks, names, height, width), voices)
    return None


def _check_count(count: int, voices: int, what: str) -> None:
    with_voices = "first_audio and second_audio" if voices == 2 else "first_audio alone"
    if count < voices:
        raise InputError(
            f"{what} with {with_voices}; {voices} to {MAX_PEOPLE} are allowed, first those of the {voices} people who "
            f"speak (person_boxes for example {EXAMPLE!r}), or none"
        )
    if count > MAX_PEOPLE:
        raise InputError(f"{what} with {with_voices}; at most {MAX_PEOPLE} are allowed")


def _box_mask(box: Box, height: int, width: int) -> np.ndarray:
    mask_HW = np.zeros((height, width), bool)
    mask_HW[box.top : box.bottom, box.left : box.right] = True
    return mask_HW


def _read_masks(paths: Iterable[Path], names: Iterable[str], height: int, width: int) -> Iterator[np.ndarray]:
    return (read_mask(path, name=name, height=height, width=width) for path, name in zip(paths, names, strict=True))


def _assign(masks: Iterator[np.ndarray], voices: int) -> PersonMasks:
    """What is the first person's and what the second's, of the masks of all."""
    first_HW = next(masks)
    if voices == 1:
        others_HW = reduce(np.logical_or, masks, np.zeros_like(first_HW))
        return first_HW, others_HW if others_HW.any() else ~first_HW
    second_HW = next(masks)
    nobody_HW = reduce(np.logical_or, masks, np.zeros_like(first_HW))
    return first_HW & ~nobody_HW, second_HW & ~nobody_HW
