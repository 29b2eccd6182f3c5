"""What trains the networks: the optimiser, the run that can be resumed, the VAE's shortcuts, the losses, the bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training.bundle import write_bundle
from training.clips import MOTION_FRAMES, Known, draw_clip
from training.muon import Muon, orthogonalise
from training.random_weights import random_networks
from training.run import Run, descend, schedule
from training.scenes import SMALL
from training.transformer import binding_loss, class_maps, windows_of
from training.vae import SingleFrames, decode, draw_crops, start_from_pictures
from training.voices import Voice, synthesise
from wan.checkpoint import load_models
from wan.chunks import Chunk
from wan.conditioning.speech import speech_windows
from wan.configs import ModelConfig
from wan.modules import labels
from wan.modules.labels import SpeakerMasks
from wan.modules.vae import build_vae


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5)])
def test_orthogonalised_updates_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.max() < 1.3
    assert values.median() > 0.6


def one_run(folder: Path, steps: int) -> nn.Module:
    """Some steps of a regression; goes on where the folder's state ends."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    run = Run(folder, model, Muon(model, apart=lambda name: name.startswith("2.")))
    while run.step < steps:
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(run.step))
        loss = (model(x) - x.prod(1, keepdim=True)).square().mean()
        descend(loss, run, schedule(run.step, 60, warm_up=5))
        run.log({"loss": loss.item()}, every=10)
    run.save()
    return model


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole = one_run(tmp_path / "whole", 40)
    one_run(tmp_path / "broken", 17)
    broken = one_run(tmp_path / "broken", 40)
    for ours, theirs in zip(whole.parameters(), broken.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert (tmp_path / "broken" / "curves.png").stat().st_size > 1000


def test_the_vaes_shortcuts_change_no_number(puppet: ModelConfig) -> None:
    torch.manual_seed(0)
    vae = build_vae(puppet.vae)
    video = draw_crops(np.random.default_rng(0), 1, 5)
    with torch.no_grad():
        latent = vae.encode(video).latent_dist.mode()
        with SingleFrames():
            torch.testing.assert_close(vae.encode(video).latent_dist.mode(), latent, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(decode(vae, latent).clamp(-1, 1), vae.decode(latent).sample)


def test_a_vae_that_starts_from_pictures_sees_each_frame_alone(puppet: ModelConfig) -> None:
    torch.manual_seed(0)
    vae = build_vae(puppet.vae)
    start_from_pictures(vae)
    still = draw_crops(np.random.default_rng(0), 1, 1).expand(-1, -1, 9, -1, -1)
    with torch.no_grad():
        latent = vae.encode(still).latent_dist.mode()
        shown = decode(vae, latent)
    torch.testing.assert_close(latent[:, :, 1:], latent[:, :, :1].expand(-1, -1, 2, -1, -1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shown[:, :, 1:], shown[:, :, :1].expand(-1, -1, 8, -1, -1), rtol=1e-3, atol=1e-4)


VOICES = [
    Voice(clean=sound, mixed=sound) for sound in (synthesise(np.random.default_rng(i), 8.0, "train") for i in (0, 1))
]


@pytest.mark.parametrize("known", ["picture", "motion", "source"])
def test_a_clip_knows_its_first_frames(known: Known) -> None:
    for seed in range(6):
        clip = draw_clip(np.random.default_rng(seed), VOICES, 2, SMALL["wide"], 33, known)
        assert clip.video.shape == (33, 64, 128, 3)
        assert len(clip.condition) == (MOTION_FRAMES if known == "motion" else 1)
        assert clip.clean in ({1, MOTION_FRAMES} if known == "source" else {0})
        if known != "source":
            np.testing.assert_array_equal(clip.condition, clip.video[: len(clip.condition)])
        assert len({len(sound) for sound in clip.sounds}) == 1
        assert (clip.masks_3hw.sum(0) >= 1).all()
        assert 0 < clip.mouths_hw.sum() < clip.mouths_hw.numel() / 2


def test_windows_are_the_pipelines() -> None:
    tracks = tuple(torch.randn(60, 4, 8) for _ in range(2))
    chunk = Chunk(index=0, start=20, stop=29, overlap=0, fresh=9)
    stored = torch.stack([track[18:31] for track in tracks])
    torch.testing.assert_close(windows_of(stored[None])[0], speech_windows(tracks, chunk, 5))


def test_the_binding_loss_is_least_when_every_token_finds_its_class() -> None:
    columns = torch.eye(3).repeat(2, 1)[None]
    masks = SpeakerMasks(columns, columns.sum(1))
    perfect, lost = columns.repeat(1, 4, 1), torch.ones(1, 24, 3)
    assert binding_loss([perfect], masks)[0] < 0.01 < 1 < binding_loss([lost], masks)[0]
    assert binding_loss([perfect], masks)[1] == 1


def test_recording_the_maps_ends_with_its_context() -> None:
    before = labels.attention_to_classes
    with class_maps() as maps:
        assert labels.attention_to_classes is not before
    assert labels.attention_to_classes is before
    assert maps == []


def test_a_bundle_in_bfloat16_is_what_was_trained_rounded(puppet: ModelConfig, tmp_path: Path) -> None:
    networks = random_networks(puppet, seed=0)
    write_bundle(puppet, networks, tmp_path, torch.bfloat16)
    models = load_models(puppet, tmp_path, torch.device("cpu"))
    for name, loaded in models.transformer.state_dict().items():
        written = networks.transformer.state_dict()[name]
        torch.testing.assert_close(loaded, written, rtol=0.01, atol=1e-6)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 40e6
