"""Everybody's place, between the media side and the model's grid: found, told to the model, drawn.

F frames, H x W, 3 colours C.
"""

import numpy as np
import torch
from PIL import Image

from src.errors import InputError, truncated_repr
from src.media.persons.masks import PersonMasks
from src.media.persons.overlay import draw_overlay
from src.request import MediaInputs, RawInputs
from wan.conditioning.image import crop_image
from wan.conditioning.layout import ImageLayout, layout_image
from wan.conditioning.speakers import MaskRegion, SpeakerError
from wan.configs import ModelConfig
from wan.configs.capabilities import check_supported
from wan.types import Aspect


def video_unsupported_reason(config: ModelConfig) -> str:
    """What is said to somebody who sends a video to a model that cannot be shown one; empty for one that can."""
    try:
        check_supported(config, num_persons=1, video=True)
    except ValueError as error:
        return str(error)
    return ""


def layout_speakers(
    config: ModelConfig, material: MediaInputs, uploads: RawInputs, size_class: str, aspect: Aspect
) -> ImageLayout:
    """Everybody's place on the model's grid; InputError when somebody has none left there, or the model knows fewer."""
    picture, regions = material.image, to_person_masks(material.person_masks)
    buckets, persons = config.buckets[size_class], len(material.timeline.waveforms)
    try:
        check_supported(config, persons, video=False)
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        return layout_image(picture.height, picture.width, buckets, persons, regions, aspect)
    except SpeakerError as error:
        given = f"person_boxes is {truncated_repr(uploads.person_boxes or '')}"
        if uploads.person_masks:
            given = f"person_masks has {len(uploads.person_masks)}"
        raise InputError(f"{given}: {error}") from error


def to_person_masks(people: PersonMasks | None) -> tuple[MaskRegion, MaskRegion] | None:
    """Masks of the media side as regions of the model's."""
    if people is None:
        return None
    first, second = (MaskRegion(pixels_HW=torch.from_numpy(mask_HW)) for mask_HW in people)
    return first, second


def draw_preview(material: MediaInputs, framing: ImageLayout, *, second_speaks: bool) -> Image.Image:
    """The first frame as the model sees it, with everybody's region and name."""
    names = ["person 1: first_audio", "person 2: second_audio" if second_speaks else "person 2: silent"]
    people_HW = framing.masks.bool().numpy()[: len(material.timeline.waveforms)]
    frame = Image.fromarray(to_pixels(crop_image(material.image, framing.crop)[:, None])[0])
    return draw_overlay(frame, dict(zip(names, people_HW, strict=False)))


def to_pixels(video_CFHW: torch.Tensor) -> np.ndarray:
    """[-1, 1] to uint8 F x H x W x C, rounded on the device."""
    pixels = ((video_CFHW + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
