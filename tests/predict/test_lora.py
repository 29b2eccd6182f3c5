"""LoRAs and presets through the server: merged for the request that asks, gone for the next."""

import pytest

from tests.predict.conftest import Service
from tests.predict.movies import movie_of
from tests.predict.test_prediction import different


def test_a_lora_changes_its_own_request_only(service: Service, fusionx: str) -> None:
    before = movie_of(service.succeed(num_frames=5))
    merged = movie_of(service.succeed(num_frames=5, lora=fusionx))
    assert different(merged, before)
    assert movie_of(service.succeed(num_frames=5)).data == before.data
    assert movie_of(service.succeed(num_frames=5, lora=fusionx, lora_strength=0)).data == before.data
    assert different(movie_of(service.succeed(num_frames=5, lora=fusionx, lora_strength=0.5)), merged)


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


def test_the_fast_preset_brings_the_lora_of_the_built_in_model(service: Service) -> None:
    fast = movie_of(service.succeed(num_frames=5, preset="fast"))
    assert movie_of(service.succeed(num_frames=5, preset="fast", lora="distilled")).data == fast.data
    assert different(movie_of(service.succeed(num_frames=5, preset="fast", lora_strength=0)), fast)
