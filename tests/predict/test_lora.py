"""LoRAs and presets through the server: merged for the request that asks, gone for the next."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weights
from tests.predict.conftest import Service
from tests.predict.movies import movie_of
from tests.predict.test_prediction import different


@pytest.fixture(scope="module")
def installed(service: Service, trained_folder: Path) -> str:
    """A LoRA for the small model where the operator would put FusionX."""
    bundle = weights.BUNDLES["FusionX"]
    path = trained_folder / bundle.folder / bundle.files[0].path
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    layers = [f"diffusion_model.blocks.{i}.self_attn.{part}" for i in range(6) for part in "qv"]
    save_file(
        {
            f"{layer}.lora_{end}.weight": torch.randn(shape, generator=generator)
            for layer in layers
            for end, shape in (("A", (4, 192)), ("B", (192, 4)))
        },
        path,
    )
    return "FusionX"


def test_a_lora_changes_its_own_request_only(service: Service, installed: str) -> None:
    before = movie_of(service.succeed(num_frames=5))
    merged = movie_of(service.succeed(num_frames=5, lora=installed))
    assert different(merged, before)
    assert movie_of(service.succeed(num_frames=5)).data == before.data
    assert movie_of(service.succeed(num_frames=5, lora=installed, lora_strength=0)).data == before.data
    assert different(movie_of(service.succeed(num_frames=5, lora=installed, lora_strength=0.5)), merged)


@pytest.mark.parametrize(
    ("preset", "steps", "inputs"), [("fast", 4, {}), ("fast", 6, {"sampling_steps": 6}), ("balanced", 25, {})]
)
def test_a_preset_brings_its_steps_unless_they_are_given(
    service: Service, preset: str, steps: int, inputs: dict[str, int]
) -> None:
    answer = service.succeed(preset=preset, **{"sampling_steps": 40, **inputs})
    assert f"step {steps} of {steps}" in answer["logs"]


def test_the_memory_plan_is_reported(service: Service) -> None:
    assert service.succeed()["metrics"]["memory_plan"].startswith("resident")
