"""Bytes counted on the meta device agree with those that real work allocates."""

from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.networks import random_models
from tests.wan.test_multitalk import options_of, request_of
from wan import MultiTalkPipeline
from wan.checkpoint import Precision, load_models
from wan.conditioning.latent import condition_latent
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.decode import decode_video
from wan.modules.feature_cache import FeatureCache, Transfer
from wan.modules.vae import VideoVAE, build_vae
from wan.multitalk import chunk_size
from wan.offload.estimate import (
    META,
    WeightBytes,
    estimate_memory,
    estimate_vae,
    estimate_weights,
    measure_peak,
    measure_weights,
)
from wan.types import VideoSize

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [VideoSize(frames=33, height=64, width=128), VideoSize(frames=9, height=96, width=96)])
def test_vae_estimate_matches_measured_peak(
    puppet: ModelConfig, size: VideoSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With cache and frames on the device, and with both offloaded: to NumPy arrays, or to the meta device."""
    with META:
        meta_vae = VideoVAE(build_vae(puppet.vae).eval())
    vae = VideoVAE(build_vae(puppet.vae).eval())
    latent, frame = torch.zeros(16, *size.latent), torch.zeros(3, size.height, size.width)
    measured = max(
        measure_peak(lambda: deque(decode_video(vae, latent, frame, 1.0, CPU), maxlen=0), CPU),
        measure_peak(lambda: condition_latent(vae, frame[:, None], size, CPU), CPU),
    )
    assert estimate_vae(meta_vae, size, META) == pytest.approx(measured, rel=0.15)

    class NumPyCache(FeatureCache):
        """Keeps features where `PeakCounter` does not count them."""

        def _store(self, layer: Any, frames: Any) -> Transfer:
            self.tensors[layer] = frames.movedim(1, -1).contiguous().numpy().copy()
            return Transfer(frames, None)

        def _fetch(self, layer: Any) -> Transfer:
            kept: Any = self.tensors.get(layer)
            return Transfer(None if kept is None else torch.from_numpy(kept).clone().movedim(-1, 1), None)

    monkeypatch.setattr("wan.modules.vae.FeatureCache", NumPyCache)
    video = torch.zeros(3, size.frames, size.height, size.width)
    offloaded = max(
        measure_peak(lambda: deque(decode_video(vae, latent, frame, 1.0, META), maxlen=0), CPU),
        measure_peak(lambda: vae.encode(video), CPU),
    )
    assert offloaded < 0.75 * measured
    monkeypatch.undo()
    assert estimate_vae(meta_vae, size, CPU) == pytest.approx(offloaded, rel=0.15)


@pytest.mark.parametrize(("persons", "precision"), [(1, "bf16"), (2, "bf16"), (1, "fp8")])
def test_request_estimate_matches_measured_peak(
    puppet: ModelConfig, puppet_folder: Path, persons: int, precision: Precision
) -> None:
    models = load_models(puppet, puppet_folder, CPU, precision)
    pipeline = MultiTalkPipeline.from_models(puppet, models)
    request = request_of(*(9,) * persons)
    options = options_of(puppet, teacache_thresh=0.0)
    size = chunk_size(pipeline.resolve_layout(request, options), options)
    estimate = estimate_memory(puppet, size, persons, models.transformer)
    estimated = estimate.kv_cache + max(estimate.forward, estimate.vae)
    measured = measure_peak(lambda: deque(pipeline.stream(request, options), maxlen=0), CPU)
    assert abs(estimated - measured) < 0.15 * measured


def test_dequantized_weights_are_counted() -> None:
    config = WAN_CONFIGS["multitalk-14B"]
    size = VideoSize(frames=5, height=64, width=64)
    fp8 = random_models(config, META, "fp8").transformer
    layer = config.transformer.dim * config.transformer.ffn_dim
    plain, quantized = (estimate_memory(config, size, 1, each).forward for each in (None, fp8))
    assert quantized - plain > layer * (torch.float32.itemsize + torch.bfloat16.itemsize)


def test_tied_weights_are_counted_once(puppet: ModelConfig, puppet_folder: Path) -> None:
    """The text encoder's token embedding has two names; it must also stay tied when the module is moved."""
    models = load_models(puppet, puppet_folder, CPU)
    encoder = models.text_encoder.model
    storages = {each.data_ptr(): each.nbytes for each in encoder.state_dict().values()}
    assert measure_weights(models).text_encoder == sum(storages.values())
    encoder.double()  # like a move, allocates new data for every parameter
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight


def test_weight_bytes_are_estimated_before_loading() -> None:
    config = WAN_CONFIGS["multitalk-14B"]
    for precision in ("bf16", "fp8"):
        estimated, measured = (
            estimate_weights(config, precision),
            measure_weights(random_models(config, META, precision)),
        )
        assert total(estimated) == pytest.approx({"bf16": 51.5e9, "fp8": 27e9}[precision], rel=0.08)
        assert total(estimated) == pytest.approx(total(measured), rel=0.08)
        assert estimated.blocks == pytest.approx(measured.blocks, rel=0.01)


def total(weights: WeightBytes) -> int:
    return weights.transformer + weights.text_encoder + weights.image_encoder + weights.vae
