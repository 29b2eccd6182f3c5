"""What is counted on the meta device is what real work takes, and plans follow from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.networks import draw_models
from tests.wan.test_multitalk import options_of, request_of
from wan import MultiTalkPipeline
from wan.checkpoint.components import Precision, load_models
from wan.conditioning.latent import condition_latent
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.decode import decode_video
from wan.modules.vae import VideoVAE, build_vae
from wan.modules.vae_layers import FeatureCache
from wan.offload.estimate import (
    META,
    MemoryEstimate,
    OutOfMemoryPlanError,
    WeightBytes,
    choose_plan,
    enumerate_plans,
    estimate_memory,
    peak_of,
    vae_peak,
)
from wan.offload.manager import OffloadManager, blocks_within, weights_bytes, weights_of
from wan.offload.streaming import StreamedBlocks
from wan.types import VideoSize

CPU = torch.device("cpu")
WEIGHTS = WeightBytes(transformer=50, blocks=(4,) * 10, text_encoder=30, image_encoder=3, vae=2)
DEMAND = MemoryEstimate(constants=5, forward=10, vae=12, vae_slices=6)
LARGE = replace(DEMAND, vae=40)
"""A large picture, of which the VAE's work is the most."""


def test_plans_grow_leaner() -> None:
    candidates = enumerate_plans(WEIGHTS, DEMAND)
    assert [plan.name for plan in candidates] == ["resident", "encoders leave"] + ["streamed"] * 10
    assert candidates[0].peak == 50 + 35 + 5 + 12
    assert candidates[1].peak == 50 + 30
    assert candidates[-1].peak == (50 - 40) + 30
    assert not any(plan.vae_slices for plan in candidates), "the text encoder needs more than the VAE"


def test_a_vae_in_slices_comes_before_streaming_where_it_helps() -> None:
    candidates = enumerate_plans(WEIGHTS, LARGE)
    assert [(plan.name, plan.vae_slices) for plan in candidates[:4]] == [
        ("resident", False),
        ("encoders leave", False),
        ("encoders leave", True),
        ("streamed", False),
    ]
    assert candidates[1].peak == 50 + 5 + 2 + 40
    assert candidates[2].peak == 50 + 30
    assert "VAE in slices of time" in str(candidates[2])


@pytest.mark.parametrize(
    ("free", "name", "resident"), [(113, "resident", 10), (112, "encoders leave", 10), (60, "streamed", 3)]
)
def test_the_fastest_plan_that_fits_is_chosen(free: int, name: str, resident: int) -> None:
    plan = choose_plan(enumerate_plans(WEIGHTS, DEMAND), free, margin=0.1)
    assert (plan.name, plan.resident_blocks) == (name, resident)


def test_at_most_so_many_blocks_stay() -> None:
    candidates = enumerate_plans(WEIGHTS, DEMAND, most_resident=3)
    assert [plan.resident_blocks for plan in candidates] == [3, 3, 2, 1, 0]
    assert {plan.name for plan in candidates} == {"streamed"}
    assert candidates[0].encoders_stay
    assert candidates[0].peak == (50 - 7 * 4) + 35 + 5 + (2 * 4 + 10)


def test_too_little_is_an_error_with_both_numbers() -> None:
    weights = replace(WEIGHTS, text_encoder=30 * 10**9)
    with pytest.raises(OutOfMemoryPlanError, match=r"8\.0 GB of the device's memory are free.*needs 33\.0 GB"):
        choose_plan(enumerate_plans(weights, DEMAND), 8 * 10**9, margin=0.1)


def test_slots_count_where_blocks_are_gone_through() -> None:
    small_text = replace(WEIGHTS, text_encoder=0)
    assert enumerate_plans(small_text, DEMAND)[-1].peak == (50 - 40) + 2 * 4 + 5 + 10


def test_the_leanest_plan_does_not_wait_for_the_vae() -> None:
    """Of the 14B model: a VAE that works tile by tile, which would be an approximation, could make no plan leaner."""
    config = WAN_CONFIGS["multitalk-14B"]
    sizes = [VideoSize(frames=81, height=height, width=width) for height, width in ((448, 896), (704, 1280))]
    demands = [estimate_memory(config, size, persons=1) for size in sizes]
    precisions: tuple[Precision, ...] = ("bf16", "fp8")
    for weights in (weights_of(draw_models(config, META, precision)) for precision in precisions):
        for demand in demands:
            without = replace(demand, vae=0, vae_slices=0)
            least, least_without = (
                min(plan.peak for plan in enumerate_plans(weights, each)) for each in (demand, without)
            )
            assert least == least_without


@pytest.mark.parametrize("size", [VideoSize(frames=33, height=64, width=128), VideoSize(frames=9, height=96, width=96)])
def test_the_vae_s_estimate_is_what_its_work_takes(
    puppet: ModelConfig, size: VideoSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With features and frames on the device, and with both elsewhere: in arrays, and on the meta device."""
    with META:
        counted = VideoVAE(build_vae(puppet.vae).eval())
    vae = VideoVAE(build_vae(puppet.vae).eval())
    latent, frame = torch.zeros(16, *size.latent), torch.zeros(3, size.height, size.width)
    measured = max(
        peak_of(lambda: decode_video(vae, latent, frame, 1.0, CPU), CPU),
        peak_of(lambda: condition_latent(vae, frame[:, None], size, CPU), CPU),
    )
    assert vae_peak(counted, size, META) == pytest.approx(measured, rel=0.15)

    class InArrays(FeatureCache):
        def __setitem__(self, layer: Any, kept: Any) -> None:
            self.kept[layer] = kept.movedim(1, -1).contiguous().numpy().copy()

        def __getitem__(self, layer: Any) -> Any:
            kept = self.kept.get(layer)
            return None if kept is None else torch.from_numpy(kept).clone().movedim(-1, 1)

    monkeypatch.setattr("wan.modules.vae.FeatureCache", InArrays)
    video = torch.zeros(3, size.frames, size.height, size.width)
    lean = max(
        peak_of(lambda: decode_video(vae, latent, frame, 1.0, META), CPU),
        peak_of(lambda: vae.encode(video), CPU),
    )
    assert lean < 0.7 * measured
    monkeypatch.undo()
    assert vae_peak(counted, size, CPU) == pytest.approx(lean, rel=0.15)


@pytest.mark.parametrize(("persons", "precision"), [(1, "bf16"), (2, "bf16"), (1, "fp8")])
def test_the_estimate_is_what_a_request_takes(
    puppet: ModelConfig, puppet_folder: Path, persons: int, precision: Precision
) -> None:
    models = load_models(puppet, puppet_folder, CPU, precision)
    pipeline = MultiTalkPipeline.from_models(puppet, models)
    request = request_of(*(9,) * persons)
    options = options_of(puppet, teacache_thresh=0.0)
    size, _ = pipeline.frame(request, options)
    demand = estimate_memory(puppet, size, persons, models.transformer)
    estimate = demand.constants + max(demand.forward, demand.vae)
    measured = peak_of(lambda: list(pipeline.stream(request, options)), CPU)
    assert abs(estimate - measured) < 0.15 * measured


def limited(puppet: ModelConfig, folder: Path, persons: int, share: float) -> MultiTalkPipeline:
    """A pipeline that may use a share of what it would like to."""
    pipeline = MultiTalkPipeline.from_models(puppet, load_models(puppet, folder, CPU))
    size = VideoSize(frames=9, height=64, width=128)
    candidates = enumerate_plans(pipeline.residence.weights, pipeline.residence.demand(size, persons))
    leanest, richest = candidates[-1].peak, candidates[0].peak
    pipeline.residence.limit = int((leanest + share * (richest - leanest)) * 1.1) + 1
    return pipeline


def test_every_plan_gives_the_same_video(puppet: ModelConfig, puppet_folder: Path) -> None:
    videos, names = [], []
    for share in (1.0, 0.3, 0.0):
        pipeline = limited(puppet, puppet_folder, 2, share)
        videos.append(torch.cat(list(pipeline.stream(request_of(12, 12), options_of(puppet))), dim=1))
        names.append((pipeline.residence.plan.name, pipeline.residence.plan.resident_blocks))
    assert names[0] == ("resident", 6)
    assert names[-1] == ("streamed", 0)
    assert len(set(names)) == 3
    assert torch.equal(videos[0], videos[1])
    assert torch.equal(videos[0], videos[2])


@pytest.mark.parametrize("persistent", [0, None])
def test_persistent_parameters(puppet: ModelConfig, puppet_folder: Path, persistent: int | None) -> None:
    """Without a limit of memory as well: the operator has said so."""
    models = load_models(puppet, puppet_folder, CPU)
    transformer = models.transformer
    blocks = [sum(p.numel() for p in block.parameters()) for block in transformer.blocks.children()]
    rest = sum(p.numel() for p in transformer.parameters()) - sum(blocks)
    assert [blocks_within(transformer, rest + n * blocks[0]) for n in (0, 1, 6)] == [0, 1, 6]
    assert blocks_within(transformer, rest + 3 * blocks[0] - 1) == 2
    assert blocks_within(transformer, 0) == 0
    pipeline = MultiTalkPipeline.from_models(puppet, models, num_persistent_param_in_dit=persistent)
    video = torch.cat(list(pipeline.stream(request_of(9), options_of(puppet))), dim=1)
    assert isinstance(transformer.blocks, StreamedBlocks) == (persistent == 0)
    plain = MultiTalkPipeline.from_models(puppet, load_models(puppet, puppet_folder, CPU))
    assert torch.equal(video, torch.cat(list(plain.stream(request_of(9), options_of(puppet))), dim=1))


def test_networks_on_the_host_are_brought_to_where_the_plan_wants_them(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = load_models(puppet, puppet_folder, CPU)
    residence = OffloadManager(puppet, models, torch.device("meta"))
    moved: list[str] = []
    monkeypatch.setattr(
        "wan.offload.manager.move", lambda module, device: moved.append(f"{type(module).__name__} {device}")
    )
    residence.settle(residence.plan)
    networks = ("UMT5EncoderModel", "CLIPVisionModel", "AutoencoderKLWan", "ModuleList", "Conv3d", "Head")
    assert {f"{name} meta" for name in networks} <= set(moved)
    moved.clear()
    residence.settle(residence.plan)
    assert moved == []


def test_eight_bits_are_counted() -> None:
    """Weights that are dequantised take room, beside what the same forward takes without them."""
    config = WAN_CONFIGS["multitalk-14B"]
    size = VideoSize(frames=5, height=64, width=64)
    eight = draw_models(config, META, "fp8").transformer
    layer = config.transformer.dim * config.transformer.ffn_dim
    plain, eight_bits = (estimate_memory(config, size, 1, each).forward for each in (None, eight))
    assert eight_bits - plain > layer * (torch.float32.itemsize + torch.bfloat16.itemsize)


def test_a_tensor_of_two_names_is_one(puppet: ModelConfig, puppet_folder: Path) -> None:
    """The text encoder's table of tokens, which is large, has two: it is counted once, and one once it is moved."""
    models = load_models(puppet, puppet_folder, CPU)
    encoder = models.text_encoder.model
    storages = {each.untyped_storage().data_ptr(): each.nbytes for each in encoder.state_dict().values()}
    assert weights_of(models).text_encoder == sum(storages.values())
    encoder.double()  # like a move, new data for every parameter
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight


def test_weights_are_known_before_they_are_read() -> None:
    config = WAN_CONFIGS["multitalk-14B"]
    assert weights_bytes(config, "bf16") == pytest.approx(51.5e9, rel=0.02)
    assert weights_bytes(config, "fp8") == pytest.approx(27e9, rel=0.06)


def test_a_request_for_which_no_plan_fits_runs_nothing(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = limited(puppet, puppet_folder, 2, -0.5)
    ran: list[str] = []
    monkeypatch.setattr(pipeline, "prepare", lambda *_: ran.append("prepare"))
    with pytest.raises(OutOfMemoryPlanError, match="the leanest plan"):
        next(pipeline.stream(request_of(12, 12), options_of(puppet)))
    assert ran == []


def test_running_out_of_memory_is_answered_with_a_leaner_plan(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = MultiTalkPipeline.from_models(puppet, load_models(puppet, puppet_folder, CPU))
    request, options = request_of(12, 12), options_of(puppet)
    undisturbed = torch.cat(list(pipeline.stream(request, options)), dim=1)
    assert pipeline.residence.plan.name == "resident"
    failures = [2, 5]
    calls: list[int] = []
    run_passes = pipeline.models.transformer.run_passes

    def fails_at_times(*arguments: Any) -> list[torch.Tensor]:
        calls.append(1)
        if len(calls) in failures:
            raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")
        return run_passes(*arguments)

    monkeypatch.setattr(pipeline.models.transformer, "run_passes", fails_at_times)
    again = torch.cat(list(pipeline.stream(request, options)), dim=1)
    assert torch.equal(again, undisturbed)
    assert pipeline.residence.plan.name == "streamed"
    assert isinstance(pipeline.models.transformer.blocks, StreamedBlocks)


def test_running_out_of_memory_for_good_is_an_error(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = MultiTalkPipeline.from_models(puppet, load_models(puppet, puppet_folder, CPU))

    def fails(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")

    monkeypatch.setattr(pipeline.models.transformer, "run_passes", fails)
    with pytest.raises(torch.OutOfMemoryError):
        next(pipeline.stream(request_of(12), options_of(puppet)))
