"""Person masks on the model's latent grid, and the overlay that shows them.

F frames, H x W pixels, C = 3 colors, P persons.
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
from wan.conditioning.speakers import SpeakerError
from wan.configs import ModelConfig
from wan.configs.capabilities import check_supported
from wan.types import Aspect


def video_unsupported_reason(config: ModelConfig) -> str:
    """The error message for a video source if the model supports none, else empty."""
    try:
        check_supported(config, num_persons=1, video=True)
    except ValueError as error:
        return str(error)
    return ""


def layout_speakers(
    config: ModelConfig, media: MediaInputs, raw: RawInputs, size_class: str, aspect: Aspect
) -> ImageLayout:
    """Crop of the image and person masks on the latent grid.

    Raises InputError for more persons than the model supports, and if a person has no token after the crop.
    """
    image, num_persons = media.image, len(media.timeline.waveforms)
    masks = to_tensors(media.person_masks) if media.person_masks is not None else None
    try:
        check_supported(config, num_persons, video=False)
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        return layout_image(image.height, image.width, config.buckets[size_class], num_persons, masks, aspect)
    except SpeakerError as error:
        what = f"person_boxes is {truncated_repr(raw.person_boxes or '')}"
        if raw.person_masks:
            what = f"person_masks has {len(raw.person_masks)}"
        raise InputError(f"{what}: {error}") from error


def to_tensors(masks: PersonMasks) -> tuple[torch.Tensor, torch.Tensor]:
    """The masks as tensors that share their memory."""
    first_HW, second_HW = masks
    return torch.from_numpy(first_HW), torch.from_numpy(second_HW)


def draw_preview(media: MediaInputs, layout: ImageLayout, *, second_speaks: bool) -> Image.Image:
    """The cropped first frame with every person's mask and name."""
    names = ["person 1: first_audio", "person 2: second_audio" if second_speaks else "person 2: silent"]
    masks_PHW = layout.masks.bool().numpy()[: len(media.timeline.waveforms)]
    frame = Image.fromarray(to_pixels(crop_image(media.image, layout.crop)[:, None])[0])
    return draw_overlay(frame, dict(zip(names, masks_PHW, strict=False)))


def to_pixels(video_CFHW: torch.Tensor) -> np.ndarray:
    """Convert [-1, 1] to uint8 F x H x W x C on the host."""
    return quantize_pixels(video_CFHW).cpu().numpy()


def quantize_pixels(video_CFHW: torch.Tensor) -> torch.Tensor:
    """Convert [-1, 1] to contiguous uint8 F x H x W x C, rounded on the device."""
    pixels = ((video_CFHW + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous()
