"""The VAE matches diffusers, with offloaded features and skipped work, and keeps no state on the module."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from torch import Tensor, nn

from wan.checkpoint.component import load_component
from wan.checkpoint.components import vae_component
from wan.checkpoint.layout import find_layout
from wan.configs import ModelConfig
from wan.modules import vae_layers
from wan.modules.conv3d import convolve
from wan.modules.feature_cache import FeatureCache
from wan.modules.vae import VideoVAE, build_vae
from wan.modules.vae_layers import encoder_stages, receptive_field

CPU = torch.device("cpu")
FRAMES = 13
TAIL = 4
PORTRAIT = Path(__file__).parents[3] / "examples" / "portrait.png"


@pytest.fixture(scope="module")
def model(puppet: ModelConfig) -> AutoencoderKLWan:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_vae(replace(puppet.vae, dim=8)).eval().requires_grad_(False)


def draw(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def statistics(model: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(model.config[name]) for name in ("latents_mean", "latents_std"))
    return mean[:, None, None, None], std[:, None, None, None]


def concatenate(slices: Iterator[Tensor]) -> Tensor:
    return torch.cat(list(slices), dim=1)


def test_decoding_matches_diffusers(model: AutoencoderKLWan) -> None:
    latent = draw(16, 4, 4, 6)
    mean, std = statistics(model)
    expected = model.decode((latent * std + mean)[None]).sample[0]
    slices = list(VideoVAE(model).decode(latent))
    assert [frames.shape[1] for frames in slices] == [1, 4, 4, 4]
    torch.testing.assert_close(torch.cat(slices, dim=1), expected, rtol=1e-5, atol=1e-5)


def test_encoding_matches_diffusers(model: AutoencoderKLWan) -> None:
    video = draw(3, FRAMES, 32, 48)
    mean, std = statistics(model)
    expected = (model.encode(video[None]).latent_dist.mode()[0] - mean) / std
    torch.testing.assert_close(VideoVAE(model).encode(video), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_known", [1, 9])
@pytest.mark.parametrize("blocks", [1, 2])
def test_padding_frames_are_skipped_with_equal_results(
    puppet: ModelConfig, num_known: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bitwise equal; deeper stages have a larger receptive field and skip fewer slices."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_vae(replace(puppet.vae, dim=8, num_res_blocks=blocks)).eval()
    layer_runs: list[nn.Module] = []

    def counting(layer: nn.Module, *arguments: Any) -> Tensor:
        layer_runs.append(layer)
        return run_layer(layer, *arguments)

    run_layer = vae_layers.run_layer
    monkeypatch.setattr(vae_layers, "run_layer", counting)
    with torch.inference_mode():
        vae, video = VideoVAE(model), torch.zeros(3, 81, 16, 24)
        video[:, :num_known] = draw(3, num_known, 16, 24)
        expected = vae.encode(video)
        assert layer_runs.count(model.encoder.conv_in) == 21
        layer_runs.clear()
        assert torch.equal(vae.encode(video[:, :num_known], num_frames=81), expected)
    runs = [layer_runs.count(stage[0]) for stage in encoder_stages(model.encoder)]
    assert runs == sorted(runs)
    assert runs[0] == num_known // 4 + 1 + (4 if blocks == 2 else 3)
    assert runs[-1] == 21


def test_receptive_field_is_that_of_a_stage(model: AutoencoderKLWan) -> None:
    """A change within the receptive field changes the last frames, a change one frame earlier does not."""
    stage = encoder_stages(model.encoder)[0]
    frames_back = sum(map(receptive_field, stage))
    video = draw(1, 3, frames_back + 1 + TAIL, 16, 16)

    def last_frames(changed: int) -> Tensor:
        other = video.clone()
        other[:, :, changed] += 1
        return vae_layers.run_layers(stage, other, FeatureCache(CPU, CPU), first=False)[:, :, -TAIL:]

    with torch.inference_mode():
        expected = vae_layers.run_layers(stage, video, FeatureCache(CPU, CPU), first=False)[:, :, -TAIL:]
        assert torch.equal(last_frames(0), expected)
        assert not torch.equal(last_frames(1), expected)


def test_offloading_the_feature_cache_changes_no_bit(model: AutoencoderKLWan, monkeypatch: pytest.MonkeyPatch) -> None:
    """float64 stands for another device: every stored tensor must be converted back."""
    vae = VideoVAE(model)
    latent, video = draw(16, 3, 4, 6), draw(3, 9, 32, 48)
    expected = concatenate(vae.decode(latent)), vae.encode(video)
    offloaded: list[object] = []

    class Float64Cache(FeatureCache):
        def __setitem__(self, layer: object, frames: Tensor) -> None:
            offloaded.append(layer)
            self.tensors[layer] = frames.double()

        def __getitem__(self, layer: object) -> Tensor | None:
            frames = self.tensors.get(layer)
            return None if frames is None else frames.float()

    monkeypatch.setattr("wan.modules.vae.FeatureCache", Float64Cache)
    assert torch.equal(concatenate(vae.decode(latent)), expected[0])
    assert torch.equal(vae.encode(video), expected[1])
    assert len(set(offloaded)) > 20


def test_an_abandoned_decode_leaves_no_state(model: AutoencoderKLWan) -> None:
    vae, latent = VideoVAE(model), draw(16, 3, 4, 6)
    expected = concatenate(vae.decode(latent))
    model.clear_cache()
    next(vae.decode(latent))
    assert not any(cached is not None for cached in model._feat_map)
    assert torch.equal(concatenate(vae.decode(latent)), expected)


def test_convolutions_get_channels_last_tensors(model: AutoencoderKLWan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other layouts would be copied by each convolution."""
    wrong: list[tuple[int, ...]] = []

    def checking(convolution: nn.Conv3d, x: Tensor, *padding: tuple[int, int, int]) -> Tensor:
        both = (x, convolution.weight)
        wrong.extend(tuple(each.shape) for each in both if not each.is_contiguous(memory_format=torch.channels_last_3d))
        return convolve(convolution, x, *padding)

    monkeypatch.setattr(vae_layers, "convolve", checking)
    with torch.inference_mode():
        vae = VideoVAE(model)
        concatenate(vae.decode(vae.encode(draw(3, FRAMES, 32, 48))))
    assert wrong == []


def test_a_bfloat16_decoder_is_close_to_float32(puppet: ModelConfig) -> None:
    """PSNR above 40 dB for the built-in model on the CPU."""
    folder = Path(__file__).parents[3] / "models" / puppet.name

    def load(dtype: str) -> VideoVAE:
        config = replace(puppet, vae_dtype=dtype)
        return VideoVAE(load_component(vae_component(config, find_layout(config, folder, "bf16").vae), CPU))

    exact, rounded = load("float32"), load("bfloat16")
    assert exact.model.encoder.conv_in.weight.dtype == rounded.model.encoder.conv_in.weight.dtype == torch.float32
    assert rounded.model.decoder.conv_in.weight.dtype == torch.bfloat16
    image = torch.from_numpy(np.array(Image.open(PORTRAIT).convert("RGB").resize((64, 128)))) / 127.5 - 1
    with torch.inference_mode():
        latent = exact.encode(image.permute(2, 0, 1)[:, None].expand(-1, 5, -1, -1))
        error = (concatenate(exact.decode(latent)) - concatenate(rounded.decode(latent))).square().mean().item()
    assert 10 * math.log10(2**2 / error) > 40


def test_cached_features_return_on_the_compute_device() -> None:
    features = FeatureCache(torch.device("meta"), CPU)
    assert features["layer"] is None
    features["layer"] = torch.ones(2)
    frames: Any = features["layer"]
    assert features.tensors["layer"].device == CPU
    assert frames.is_meta
