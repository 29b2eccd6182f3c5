"""What the library computes, wherever features rest and whatever work is left out; nothing is left on the module."""

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
from wan.modules.vae import VideoVAE, build_vae
from wan.modules.vae_layers import FeatureCache, encoder_stages, receptive_field

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


def whole(slices: Iterator[Tensor]) -> Tensor:
    return torch.cat(list(slices), dim=1)


def test_decoding_is_the_library_s(model: AutoencoderKLWan) -> None:
    latent = draw(16, 4, 4, 6)
    mean, std = statistics(model)
    expected = model.decode((latent * std + mean)[None]).sample[0]
    slices = list(VideoVAE(model).decode(latent))
    assert [piece.shape[1] for piece in slices] == [1, 4, 4, 4]
    torch.testing.assert_close(torch.cat(slices, dim=1), expected, rtol=1e-5, atol=1e-5)


def test_encoding_is_the_library_s(model: AutoencoderKLWan) -> None:
    video = draw(3, FRAMES, 32, 48)
    mean, std = statistics(model)
    expected = (model.encode(video[None]).latent_dist.mode()[0] - mean) / std
    torch.testing.assert_close(VideoVAE(model).encode(video), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("known", [1, 9])
@pytest.mark.parametrize("blocks", [1, 2])
def test_zero_frames_need_not_be_there(
    puppet: ModelConfig, known: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits with most of the work left out, and less of it left out the deeper a stage is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_vae(replace(puppet.vae, dim=8, num_res_blocks=blocks)).eval()
    ran: list[nn.Module] = []

    def counted(layer: nn.Module, *arguments: Any) -> Tensor:
        ran.append(layer)
        return through(layer, *arguments)

    through = vae_layers.run_layer
    monkeypatch.setattr(vae_layers, "run_layer", counted)
    with torch.inference_mode():
        vae, video = VideoVAE(model), torch.zeros(3, 81, 16, 24)
        video[:, :known] = draw(3, known, 16, 24)
        expected = vae.encode(video)
        assert ran.count(model.encoder.conv_in) == 21
        ran.clear()
        assert torch.equal(vae.encode(video[:, :known], num_frames=81), expected)
    runs = [ran.count(stage[0]) for stage in encoder_stages(model.encoder)]
    assert runs == sorted(runs)
    assert runs[0] == known // 4 + 1 + (4 if blocks == 2 else 3)
    assert runs[-1] == 21


def test_reach_is_what_a_stage_sees(model: AutoencoderKLWan) -> None:
    """A change so many frames before a slice is seen there, one frame earlier is not."""
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


def test_where_features_rest_does_not_change_a_bit(model: AutoencoderKLWan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dtype of the same values stands for another device: what comes back must be asked for."""
    vae = VideoVAE(model)
    latent, video = draw(16, 3, 4, 6), draw(3, 9, 32, 48)
    expected = whole(vae.decode(latent)), vae.encode(video)
    away: list[object] = []

    class Elsewhere(FeatureCache):
        def __setitem__(self, layer: object, kept: Tensor) -> None:
            away.append(layer)
            self.tensors[layer] = kept.double()

        def __getitem__(self, layer: object) -> Tensor | None:
            kept = self.tensors.get(layer)
            return None if kept is None else kept.float()

    monkeypatch.setattr("wan.modules.vae.FeatureCache", Elsewhere)
    assert torch.equal(whole(vae.decode(latent)), expected[0])
    assert torch.equal(vae.encode(video), expected[1])
    assert len(set(away)) > 20


def test_a_call_that_is_stopped_leaves_nothing_behind(model: AutoencoderKLWan) -> None:
    vae, latent = VideoVAE(model), draw(16, 3, 4, 6)
    expected = whole(vae.decode(latent))
    model.clear_cache()
    next(vae.decode(latent))
    assert not any(kept is not None for kept in model._feat_map)
    assert torch.equal(whole(vae.decode(latent)), expected)


def test_channels_lie_last_wherever_frames_are_convolved(
    model: AutoencoderKLWan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor that lies otherwise would be copied by every convolution."""
    wrong: list[tuple[int, ...]] = []

    def checked(convolution: nn.Conv3d, x: Tensor, *padding: tuple[int, int, int]) -> Tensor:
        both = (x, convolution.weight)
        wrong.extend(tuple(each.shape) for each in both if not each.is_contiguous(memory_format=torch.channels_last_3d))
        return convolve(convolution, x, *padding)

    monkeypatch.setattr(vae_layers, "convolve", checked)
    with torch.inference_mode():
        vae = VideoVAE(model)
        whole(vae.decode(vae.encode(draw(3, FRAMES, 32, 48))))
    assert wrong == []


def test_a_rounded_decoder_is_near(puppet: ModelConfig) -> None:
    """The built-in model's, in bfloat16 on the processor: more than 40 dB from float32."""
    folder = Path(__file__).parents[3] / "models" / puppet.name

    def load(dtype: str) -> VideoVAE:
        config = replace(puppet, vae_dtype=dtype)
        return VideoVAE(load_component(vae_component(config, find_layout(config, folder, "bf16").vae), CPU))

    exact, rounded = load("float32"), load("bfloat16")
    assert exact.model.encoder.conv_in.weight.dtype == rounded.model.encoder.conv_in.weight.dtype == torch.float32
    assert rounded.model.decoder.conv_in.weight.dtype == torch.bfloat16
    picture = torch.from_numpy(np.array(Image.open(PORTRAIT).convert("RGB").resize((64, 128)))) / 127.5 - 1
    with torch.inference_mode():
        latent = exact.encode(picture.permute(2, 0, 1)[:, None].expand(-1, 5, -1, -1))
        error = (whole(exact.decode(latent)) - whole(rounded.decode(latent))).square().mean().item()
    assert 10 * math.log10(2**2 / error) > 40


def test_features_are_handed_out_where_they_are_needed() -> None:
    features = FeatureCache(torch.device("meta"), CPU)
    assert features["layer"] is None
    features["layer"] = torch.ones(2)
    kept: Any = features["layer"]
    assert features.tensors["layer"].device == CPU
    assert kept.is_meta
