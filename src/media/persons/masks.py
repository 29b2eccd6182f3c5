"""Person masks from boxes or mask images: one for each of the two persons that the model supports.

H x W of the image, bool.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from src.errors import InputError, truncated_repr
from src.media.file_type import probe
from src.media.image import read_mask
from src.media.persons.boxes import EXAMPLE, parse_boxes

PersonMasks = tuple[np.ndarray, np.ndarray]
MAX_PERSONS = 10


def person_masks(
    boxes: str | None, mask_paths: Sequence[Path], *, width: int, height: int, num_voices: int
) -> PersonMasks | None:
    """Masks (H, W) of the first and the second person, or None without boxes and mask images.

    The first boxes or mask images belong to the persons with voices, in the order of the voices. With two voices, all
    further persons are background, and their pixels are removed from both masks. With one voice, the second mask holds
    all further persons, or the rest of the image if there are none.
    Raises InputError for boxes together with mask images, for too few or too many, and as `parse_boxes` and
    `read_mask` do.
    """
    boxes_repr = f"person_boxes is {truncated_repr(boxes or '')}"
    has_boxes = bool(boxes and boxes.strip())
    if has_boxes and mask_paths:
        raise InputError(f"{boxes_repr}, and person_masks has {len(mask_paths)}; only one of them is allowed")
    if has_boxes:
        parsed = parse_boxes(boxes or "", width=width, height=height)
        _check_count(len(parsed), num_voices, f"{boxes_repr}, which is {len(parsed)}")
        return _assign((box.to_mask(height, width) for box in parsed), num_voices)
    if mask_paths:
        _check_count(len(mask_paths), num_voices, f"person_masks has {len(mask_paths)}")
        return _assign(_read_masks(mask_paths, height, width), num_voices)
    return None


def _check_count(count: int, num_voices: int, what: str) -> None:
    voices = "first_audio and second_audio" if num_voices == 2 else "first_audio alone"
    if count < num_voices:
        raise InputError(
            f"{what} with {voices}; {num_voices} to {MAX_PERSONS} are allowed, first those of the {num_voices} persons "
            f"who speak (person_boxes for example {EXAMPLE!r}), or none"
        )
    if count > MAX_PERSONS:
        raise InputError(f"{what} with {voices}; at most {MAX_PERSONS} are allowed")


def _read_masks(paths: Sequence[Path], height: int, width: int) -> Iterator[np.ndarray]:
    for number, path in enumerate(paths, 1):
        yield read_mask(probe(path, name=f"person_masks (number {number})"), height=height, width=width)


def _assign(masks: Iterator[np.ndarray], num_voices: int) -> PersonMasks:
    """The masks of the first and the second person, from those of all persons."""
    first_HW = next(masks)
    if num_voices == 1:
        others_HW = reduce(np.logical_or, masks, np.zeros_like(first_HW))
        return first_HW, others_HW if others_HW.any() else ~first_HW
    second_HW = next(masks)
    background_HW = reduce(np.logical_or, masks, np.zeros_like(first_HW))
    return first_HW & ~background_HW, second_HW & ~background_HW
