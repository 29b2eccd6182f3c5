"""LoRAs and presets through the server: merged for the request that asks, gone for the next."""

import pytest

from tests.predict.conftest import Service
from tests.predict.output_video import decode_output
from tests.predict.test_prediction import different


def test_lora_applies_to_its_request_only(service: Service, fusionx: str) -> None:
    before = decode_output(service.succeed(num_frames=5))
    merged = decode_output(service.succeed(num_frames=5, lora=fusionx))
    assert different(merged, before)
    assert decode_output(service.succeed(num_frames=5)).data == before.data
    assert decode_output(service.succeed(num_frames=5, lora=fusionx, lora_strength=0)).data == before.data
    assert different(decode_output(service.succeed(num_frames=5, lora=fusionx, lora_strength=0.5)), merged)


@pytest.mark.parametrize(
    ("preset", "steps", "inputs"), [("fast", 4, {}), ("fast", 6, {"sampling_steps": 6}), ("balanced", 25, {})]
)
def test_preset_steps_and_explicit_steps(service: Service, preset: str, steps: int, inputs: dict[str, int]) -> None:
    answer = service.succeed(preset=preset, **{"sampling_steps": 40, **inputs})
    assert f"step {steps} of {steps}" in answer["logs"]


def test_the_memory_plan_is_reported(service: Service) -> None:
    assert service.succeed()["metrics"]["memory_plan"].startswith("resident")


def test_fast_preset_uses_the_built_in_lora(service: Service) -> None:
    fast = decode_output(service.succeed(num_frames=5, preset="fast"))
    assert decode_output(service.succeed(num_frames=5, preset="fast", lora="distilled")).data == fast.data
    assert different(decode_output(service.succeed(num_frames=5, preset="fast", lora_strength=0)), fast)


def test_several_loras_by_name_and_strength(service: Service, fusionx: str) -> None:
    before = decode_output(service.succeed(num_frames=5))
    one = decode_output(service.succeed(num_frames=5, lora=fusionx, lora_strength=0.5))
    assert decode_output(service.succeed(num_frames=5, loras=[f"{fusionx}:0.5"])).data == one.data
    both = decode_output(service.succeed(num_frames=5, lora=fusionx, lora_strength=0.5, loras=["distilled"]))
    assert different(both, one)
    assert decode_output(service.succeed(num_frames=5, loras=[f"{fusionx}:0.5", "distilled:1"])).data == both.data
    assert decode_output(service.succeed(num_frames=5, loras=[])).data == before.data
