"""Slices of time are the library's own, to the bit, wherever features rest; nothing is left on the module."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from wan.configs import ModelConfig
from wan.modules.convolution import OneDNN
from wan.modules.vae import Features, VideoVAE, build_vae

CPU = torch.device("cpu")
FRAMES = 13


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


def test_decoding_is_the_library_s(model: AutoencoderKLWan) -> None:
    latent = draw(16, 4, 4, 6)
    mean, std = statistics(model)
    with OneDNN():
        expected = model.decode((latent * std + mean)[None]).sample[0]
    slices = list(VideoVAE(model).decode(latent))
    assert [piece.shape[1] for piece in slices] == [1, 4, 4, 4]
    assert torch.equal(torch.cat(slices, dim=1), expected)


def test_encoding_is_the_library_s(model: AutoencoderKLWan) -> None:
    video = draw(3, FRAMES, 32, 48)
    mean, std = statistics(model)
    with OneDNN():
        expected = (model.encode(video[None]).latent_dist.mode()[0] - mean) / std
    assert torch.equal(VideoVAE(model).encode(video), expected)


def test_where_features_rest_does_not_change_a_bit(model: AutoencoderKLWan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dtype of the same values stands for another device: what comes back must be asked for."""
    vae = VideoVAE(model)
    latent, video = draw(16, 3, 4, 6), draw(3, 9, 32, 48)
    expected = torch.cat(list(vae.decode(latent)), dim=1), vae.encode(video)
    away: list[int] = []

    class Elsewhere(Features):
        def __setitem__(self, number: int, kept: object) -> None:
            away.append(number)
            self.kept[number] = kept.double() if isinstance(kept, Tensor) else kept

        def __getitem__(self, number: int) -> object:
            kept = self.kept.get(number)
            return kept.float() if isinstance(kept, Tensor) else kept

    monkeypatch.setattr("wan.modules.vae.Features", Elsewhere)
    assert torch.equal(torch.cat(list(vae.decode(latent)), dim=1), expected[0])
    assert torch.equal(vae.encode(video), expected[1])
    assert len(set(away)) > 20


def test_a_call_that_is_stopped_leaves_nothing_behind(model: AutoencoderKLWan) -> None:
    vae, latent = VideoVAE(model), draw(16, 3, 4, 6)
    expected = torch.cat(list(vae.decode(latent)), dim=1)
    model.clear_cache()
    next(vae.decode(latent))
    assert not any(kept is not None for kept in model._feat_map)
    assert torch.equal(torch.cat(list(vae.decode(latent)), dim=1), expected)


def test_features_are_handed_out_where_they_are_needed() -> None:
    features = Features(torch.device("meta"), CPU)
    assert features[3] is None
    features[3] = "Rep"
    assert features[3] == "Rep"
    features[4] = torch.ones(2)
    assert features.kept[4].device == CPU
    assert features[4].is_meta
