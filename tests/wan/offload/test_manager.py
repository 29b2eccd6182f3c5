"""Applying offload plans: same video, right devices, recovery from out-of-memory errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.wan.test_multitalk import options_of, request_of
from wan import MultiTalkPipeline
from wan.checkpoint import load_models
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.offload.estimate import measure_weights
from wan.offload.manager import OffloadManager, initial_plan, max_resident_blocks
from wan.offload.plan import MARGIN, OffloadPlan, OutOfMemoryPlanError, host_bytes, smallest
from wan.offload.streaming import StreamedBlocks
from wan.types import VideoSize

CPU = torch.device("cpu")


def limited_pipeline(puppet: ModelConfig, folder: Path, persons: int, share: float) -> MultiTalkPipeline:
    """A pipeline whose memory limit lies at a share of the way from the smallest plan's peak to the largest."""
    pipeline = MultiTalkPipeline.from_models(puppet, load_models(puppet, folder, CPU))
    plans = pipeline.offload.planner.plans(VideoSize(frames=9, height=64, width=128), persons)
    least, most = smallest(plans).peak, plans[0].peak
    pipeline.offload.memory_limit = int((least + share * (most - least)) * (1 + MARGIN)) + 1
    return pipeline


def generate(pipeline: MultiTalkPipeline, puppet: ModelConfig, *frames: int) -> Tensor:
    return torch.cat(list(pipeline.stream(request_of(*frames), options_of(puppet))), dim=1)


def test_every_plan_gives_the_same_video(puppet: ModelConfig, puppet_folder: Path) -> None:
    videos, plans = [], []
    for share in (1.0, 0.7, 0.3, 0.0):
        pipeline = limited_pipeline(puppet, puppet_folder, 2, share)
        videos.append(generate(pipeline, puppet, 12, 12))
        plans.append((pipeline.offload.plan.name, *pipeline.offload.plan.key))
    assert plans == [
        ("resident", 6, True, False),
        ("streamed, encoders stay", 3, True, False),
        ("streamed", 0, False, False),
        ("streamed", 0, False, True),
    ]
    assert all(torch.equal(video, videos[0]) for video in videos)


@pytest.mark.parametrize("num_persistent", [0, None])
def test_num_persistent_params_streams_blocks_without_memory_limit(
    puppet: ModelConfig, puppet_folder: Path, num_persistent: int | None
) -> None:
    models = load_models(puppet, puppet_folder, CPU)
    pipeline = MultiTalkPipeline.from_models(puppet, models, num_persistent_param_in_dit=num_persistent)
    video = generate(pipeline, puppet, 9)
    assert isinstance(models.transformer.blocks, StreamedBlocks) == (num_persistent == 0)
    plain = MultiTalkPipeline.from_models(puppet, load_models(puppet, puppet_folder, CPU))
    assert torch.equal(video, generate(plain, puppet, 9))


def test_max_resident_blocks_counts_parameters_outside_blocks(puppet: ModelConfig, puppet_folder: Path) -> None:
    transformer = load_models(puppet, puppet_folder, CPU).transformer
    blocks = [sum(p.numel() for p in block.parameters()) for block in transformer.blocks.children()]
    others = sum(p.numel() for p in transformer.parameters()) - sum(blocks)
    assert [max_resident_blocks(transformer, others + n * blocks[0]) for n in (0, 1, 6)] == [0, 1, 6]
    assert max_resident_blocks(transformer, others + 3 * blocks[0] - 1) == 2
    assert max_resident_blocks(transformer, 0) == 0


def test_first_plan_moves_networks_from_the_host(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = load_models(puppet, puppet_folder, CPU)
    manager = OffloadManager(puppet, models, torch.device("meta"))
    moved: list[str] = []
    monkeypatch.setattr(
        "wan.offload.manager.move", lambda module, device: moved.append(f"{type(module).__name__} {device}")
    )
    manager.apply(manager.plan)
    networks = ("UMT5EncoderModel", "CLIPVisionModel", "AutoencoderKLWan", "ModuleList", "Conv3d", "Head")
    assert {f"{name} meta" for name in networks} <= set(moved)
    moved.clear()
    manager.apply(manager.plan)
    assert moved == []


META = torch.device("meta")


@pytest.mark.parametrize(("resident", "keep"), [(2, False), (0, False), (4, True), (None, True)])
def test_weights_are_loaded_to_where_the_plan_keeps_them(
    puppet: ModelConfig, puppet_folder: Path, resident: int | None, keep: bool
) -> None:
    """Before, all of them were loaded to the host first."""
    models = load_models(puppet, puppet_folder, META, "bf16", resident, keep)
    blocks = models.transformer.blocks
    on_host = [not next(block.parameters()).is_meta for block in blocks]
    assert on_host == [resident is not None and index >= resident for index in range(len(blocks))]
    assert models.transformer.patch_embedding.weight.is_meta
    for network in (models.text_encoder, models.image_encoder, models.vae):
        assert {parameter.is_meta for parameter in network.model.parameters()} == {keep}
    host = sum(tensor.nbytes for tensor in OffloadManager(puppet, models, META)._tensors() if not tensor.is_meta)
    plan = OffloadPlan(
        name="",
        num_resident_blocks=6 if resident is None else resident,
        keep_encoders=keep,
        offload_vae_cache=False,
        peak=0,
    )
    assert host == host_bytes(measure_weights(models), plan)


def test_plan_before_loading_is_that_of_the_first_size_class(monkeypatch: pytest.MonkeyPatch) -> None:
    config, device = WAN_CONFIGS["multitalk-14B"], torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(23.5e9), int(24e9)))
    plan = initial_plan(config, "fp8", device, None, None)
    assert plan is not None
    assert (plan.name, plan.offload_vae_cache) == ("streamed, encoders stay", False)
    smaller = initial_plan(config, "bf16", device, int(13e9), None)
    assert smaller is not None
    assert smaller.num_resident_blocks == 0
    streamed = initial_plan(config, "fp8", device, None, 0)
    assert streamed is not None
    assert streamed.num_resident_blocks == 0
    assert initial_plan(config, "fp8", CPU, None, None) is None


def test_other_tensors_of_the_process_are_not_available(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example the speech encoder's; the networks' own are."""
    manager = OffloadManager(puppet, load_models(puppet, puppet_folder, META), torch.device("cuda", 0))
    manager.device = META
    networks = manager._bytes_on_device()
    assert networks > 0
    monkeypatch.setattr(OffloadManager, "_bytes_on_device", lambda _: networks)
    manager.device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 * 10**9, 24 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: networks + 10**9)
    assert manager.budget() == 22 * 10**9
    manager.memory_limit = 10 * 10**9
    assert manager.budget() == 9 * 10**9


def test_nothing_runs_if_no_plan_fits(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = limited_pipeline(puppet, puppet_folder, 2, -0.5)
    calls: list[str] = []
    monkeypatch.setattr(pipeline, "prepare", lambda *_: calls.append("prepare"))
    with pytest.raises(OutOfMemoryPlanError, match="the smallest plan"):
        next(pipeline.stream(request_of(12, 12), options_of(puppet)))
    assert calls == []


def test_out_of_memory_retries_with_a_smaller_plan(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = MultiTalkPipeline.from_models(puppet, load_models(puppet, puppet_folder, CPU))
    expected = generate(pipeline, puppet, 12, 12)
    assert pipeline.offload.plan.name == "resident"
    calls: list[int] = []
    forward_passes = pipeline.models.transformer.forward_passes

    def fail_twice(*arguments: Any) -> list[Tensor]:
        calls.append(1)
        if len(calls) in (2, 5):
            raise torch.OutOfMemoryError("CUDA out of memory (raised by the test)")
        return forward_passes(*arguments)

    monkeypatch.setattr(pipeline.models.transformer, "forward_passes", fail_twice)
    assert torch.equal(generate(pipeline, puppet, 12, 12), expected)
    assert pipeline.offload.plan.name.startswith("streamed")
    assert isinstance(pipeline.models.transformer.blocks, StreamedBlocks)


def test_out_of_memory_under_the_smallest_plan_is_raised(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = MultiTalkPipeline.from_models(puppet, load_models(puppet, puppet_folder, CPU))

    def fail(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory (raised by the test)")

    monkeypatch.setattr(pipeline.models.transformer, "forward_passes", fail)
    with pytest.raises(torch.OutOfMemoryError):
        next(pipeline.stream(request_of(12), options_of(puppet)))
