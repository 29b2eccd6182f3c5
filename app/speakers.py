"""Everybody's place, between the media side and the model's grid: found, told to the model, drawn.

F frames, H x W, 3 colours C.
"""

import numpy as np
import torch
from PIL import Image

from src.request import Material, Uploads
from src.media.persons.overlay import draw_casting
from src.media.errors import InputError, quoted
from src.media.persons.masks import People
from wan.configs.capabilities import check_ability
from wan.conditioning.layout import Framing, frame_picture
from wan.conditioning.image import crop_picture
from wan.conditioning.speakers import SpeakerError, Stencil
from wan.configs import ModelConfig
from wan.types import Aspect


def why_no_films(config: ModelConfig) -> str:
    """What is said to somebody who sends a video to a model that cannot be shown one; empty for one that can."""
    try:
        check_ability(config, persons=1, video=True)
    except ValueError as error:
        return str(error)
    return ""


def find_places(config: ModelConfig, material: Material, uploads: Uploads, size_class: str, aspect: Aspect) -> Framing:
    """Everybody's place on the model's grid; InputError when somebody has none left there, or the model knows fewer."""
    picture, regions = material.picture, to_regions(material.people)
    buckets, persons = config.buckets[size_class], len(material.timeline.tracks)
    try:
        check_ability(config, persons, video=False)
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        return frame_picture(picture.height, picture.width, buckets, persons, regions, aspect)
    except SpeakerError as error:
        given = f"person_boxes is {quoted(uploads.person_boxes or '')}"
        if uploads.person_masks:
            given = f"person_masks has {len(uploads.person_masks)}"
        raise InputError(f"{given}: {error}") from error


def to_regions(people: People | None) -> tuple[Stencil, Stencil] | None:
    """Masks of the media side as regions of the model's."""
    if people is None:
        return None
    first, second = (Stencil(pixels_HW=torch.from_numpy(mask_HW)) for mask_HW in people)
    return first, second


def draw_people(material: Material, framing: Framing, *, second_speaks: bool) -> Image.Image:
    """The first frame as the model sees it, with everybody's region and name."""
    names = ["person 1: first_audio", "person 2: second_audio" if second_speaks else "person 2: silent"]
    people_HW = framing.masks.bool().numpy()[: len(material.timeline.tracks)]
    frame = Image.fromarray(to_pixels(crop_picture(material.picture, framing.crop)[:, None])[0])
    return draw_casting(frame, dict(zip(names, people_HW, strict=False)))


def to_pixels(video_CFHW: torch.Tensor) -> np.ndarray:
    """[-1, 1] to uint8 F x H x W x C, rounded on the device."""
    pixels = ((video_CFHW + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
