"""The 14B pipeline on a fake card: devices, dtypes, host traffic, and memory beside the plan's prediction."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.dry_run.case import Case, DryRun, dry_run
from benchmarks.dry_run.fake_cuda import Card
from wan.checkpoint import Precision
from wan.checkpoint.lora import Lora
from wan.configs.schema import ModelConfig

SHORT = {"frame_num": 9, "motion_frame": 5, "sampling_steps": 3}
LORA_LAYERS = {"self_attn.q": (1, 1), "ffn.0": (1, 2.7), "ffn.2": (2.7, 1), "cross_attn.k_img": (1, 1)}
RANK = 64


class FakeVideo:
    """A black video with one cut."""

    cuts = (10,)

    def frame_at(self, index: int) -> Image.Image:
        return Image.fromarray(np.zeros((448, 896, 3), np.uint8))


def make_loras(config: ModelConfig, precision: Precision) -> list[Lora]:
    """A LoRA on four kinds of layers of every block, and on biases where the weights are not quantized."""
    tensors: dict[str, torch.Tensor] = {}
    dim = {1: config.transformer.dim, 2.7: config.transformer.ffn_dim}
    for block in range(config.transformer.num_layers):
        for layer, (inputs, outputs) in LORA_LAYERS.items():
            prefix = f"diffusion_model.blocks.{block}.{layer}"
            tensors[f"{prefix}.lora_A.weight"] = torch.empty(RANK, dim[inputs], dtype=torch.bfloat16)
            tensors[f"{prefix}.lora_B.weight"] = torch.empty(dim[outputs], RANK, dtype=torch.bfloat16)
            if precision == "bf16":
                tensors[f"{prefix}.diff_b"] = torch.empty(dim[outputs], dtype=torch.bfloat16)
    return [Lora(weights=tensors)]


ONE = Case(options=SHORT, num_frames=14)
TWO = replace(ONE, num_persons=2)
QUICK = {
    "one person, turbo, three chunks": ONE,
    "two persons, quality, colors": replace(TWO, options={**SHORT, "turbo": False, "color_correction_strength": 0.3}),
    "nothing resident": replace(ONE, num_persistent_params=0),
    "fp8, LoRA beside": replace(ONE, precision="fp8", make_loras=make_loras),
    "InfiniteTalk, video with a cut": replace(TWO, model="infinitetalk-14B-multi", video=FakeVideo(), num_frames=20),
    "out of memory twice": replace(ONE, num_failures=2, num_layers=4),
}
SOAK = {
    "two persons, APG, 720p": replace(
        TWO,
        size=(704, 1280),
        options={**SHORT, "turbo": False, "use_apg": True},
        card=Card(name="H200", free=139 * 10**9),
    ),
    "MagCache, guidance reused": replace(
        ONE, options={**SHORT, "sampling_steps": 10, "cache": "magcache", "guidance_reuse": True}
    ),
    "fp8, two persons": replace(TWO, precision="fp8"),
    "int8": replace(ONE, precision="int8"),
    "LoRA merged": replace(ONE, make_loras=make_loras, options={**SHORT, "preset_name": "fast"}),
    "LoRA merged, nothing resident": replace(ONE, make_loras=make_loras, num_persistent_params=0),
    "fp8, 20 GB": replace(TWO, precision="fp8", num_layers=20, memory_limit=20 * 10**9),
    "720p, one person": replace(ONE, size=(704, 1280)),
}


def check(run: DryRun) -> None:
    """Nothing but streamed blocks is copied in the denoising loop, and the plan predicts the memory."""
    assert run.num_frames == run.case.num_frames
    assert unexpected_events(run) == []
    first = 1 if run.case.num_failures else 0  # before a failure there was a larger plan
    for stages in (("denoise",), ("condition", "decode"), ("condition", "denoise", "decode")):
        predicted = max(run.predicted[stage] for stage in stages)
        assert 0.9 * predicted <= run.peak(*stages, first_chunk=first) <= 1.03 * predicted, (stages, run.watch.peaks)


def unexpected_events(run: DryRun) -> list[str]:
    """What stops the device in the denoising loops; in the first, the plan changes after a failure."""
    allowed = (
        "synchronization: wan/progress.py",
        "pinned copy to device, side stream: wan/host_memory.py",
        "float64 tensor: wan/sampling/guidance.py",  # adaptive projected guidance
    )
    return [
        f"{stage}: {what} x {count}"
        for (stage, what), count in run.watch.events.items()
        if stage.startswith("denoise") and not what.startswith(allowed)
        if stage != "denoise0" or not run.case.num_failures
    ]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.soak) for name in SOAK)])
def test_pipeline_on_a_fake_card(name: str) -> None:
    check(dry_run((QUICK | SOAK)[name]))
