"""CLIP image encoder: the vision tower as transformers' `CLIPVisionModel`.

Shapes: H x W pixels, S tokens (patches and the class token), C width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from wan.configs.schema import ImageEncoderConfig

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def build_image_encoder(config: ImageEncoderConfig, drop_last: bool = True) -> CLIPVisionModel:
    """transformers' module without the last block: the video model was trained on the input of that block."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=config.dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.num_layers - drop_last,
            num_attention_heads=config.num_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_act="gelu",
            layer_norm_eps=config.eps,
        )
    )


class ImageEncoder:
    """A frame to the CLIP hidden states of all tokens before the last block, without the final norm."""

    def __init__(self, model: CLIPVisionModel) -> None:
        self.model = model
        self.image_size = int(model.config.image_size)  # type: ignore[arg-type]

    def __call__(self, frame_CHW: Tensor) -> Tensor:
        """A frame, 3 x H x W in [-1, 1], to 1 x S x C."""
        pixels = self.preprocess(frame_CHW).to(self.model.dtype)
        return self.model(pixel_values=pixels).last_hidden_state

    def preprocess(self, frame_CHW: Tensor) -> Tensor:
        """Resize (bicubic) to the model's size and normalize with CLIP's mean and std: float32 1 x 3 x size x size."""
        size = self.image_size
        resized = F.interpolate(frame_CHW[None].float(), (size, size), mode="bicubic", align_corners=False)
        mean, std = (torch.tensor(values, device=resized.device)[:, None, None] for values in (_MEAN, _STD))
        return (resized * 0.5 + 0.5 - mean) / std
