"""The picture as context: CLIP's vision tower, run by transformers' `CLIPVisionModel`.

Shapes: H x W pixels, S tokens (patches and the class token), C width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from wan.configs.schema import ImageEncoderConfig

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def build_image_encoder(config: ImageEncoderConfig, drop_last: bool = True) -> CLIPVisionModel:
    """The library's module without the last block, whose input is what the video model was trained on."""
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
    """A frame to CLIP hidden states before the last block, all tokens, no final norm."""

    def __init__(self, model: CLIPVisionModel) -> None:
        self.model = model
        self.side = int(model.config.image_size)  # type: ignore[arg-type]

    def __call__(self, frame_CHW: Tensor) -> Tensor:
        """A frame 3 x H x W in [-1, 1] to 1 x S x C."""
        pixels = self.preprocess(frame_CHW).to(self.model.dtype)
        return self.model(pixel_values=pixels).last_hidden_state

    def preprocess(self, frame_CHW: Tensor) -> Tensor:
        """Bicubic to the tower's size, [0, 1], CLIP's mean and deviation: float32 1 x 3 x size x size."""
        side = self.side
        small = F.interpolate(frame_CHW[None].float(), (side, side), mode="bicubic", align_corners=False)
        mean, std = (torch.tensor(values, device=small.device)[:, None, None] for values in (_MEAN, _STD))
        return (small * 0.5 + 0.5 - mean) / std
