"""Requests that one rank and several ranks are compared on."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from wan import MultiTalkPipeline
from wan.checkpoint.lora import Lora

SMALL: dict[str, Any] = {"frame_num": 9, "motion_frame": 5, "sampling_steps": 2, "seed": 3}
ATOL = 2e-5
"""As the golden tests allow for a video."""


def input_data(*frames: int, **changes: Any) -> dict[str, Any]:
    gradient = Image.linear_gradient("L").resize((256, 128))
    image = Image.merge("RGB", (gradient, gradient.transpose(Image.Transpose.FLIP_LEFT_RIGHT), gradient))
    speech = {
        f"person{i + 1}": torch.randn(n, 4, 64, generator=torch.Generator().manual_seed(i))
        for i, n in enumerate(frames)
    }
    return {"prompt": "hello", "cond_image": image, "cond_audio": speech} | changes


def lora() -> Lora:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "blocks.0.self_attn.q.lora_A.weight": torch.randn(4, 192, generator=generator),
        "blocks.0.self_attn.q.lora_B.weight": torch.randn(192, 4, generator=generator),
    }
    return Lora(weights=tensors, strength=0.8)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one person, two passes": (input_data(12), {}),
    "two persons, two passes": (input_data(12, 12), {}),
    "two persons, three passes": (input_data(9, 9), {"turbo": False}),
    "boxes": (input_data(9, 9, bbox={"person1": [8, 90, 120, 250], "person2": [8, 4, 120, 80]}), {"turbo": False}),
    "TeaCache": (input_data(9, 9), {"sampling_steps": 6, "teacache_thresh": 0.4}),
    "guidance reuse": (input_data(9, 9), {"sampling_steps": 4, "guidance_reuse": True}),
    "APG": (input_data(9, 9), {"use_apg": True}),
    "one pass": (input_data(9, 9), {"text_guide_scale": 1.0, "audio_guide_scale": 1.0}),
    "LoRA": (input_data(9, 9), {"loras": [lora()]}),
}


def generate(pipeline: MultiTalkPipeline, case: str, **changes: Any) -> Tensor:
    data, arguments = CASES[case]
    return pipeline.generate(data, **{**SMALL, "loras": (), **arguments, **changes})
