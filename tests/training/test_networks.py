"""What trains the networks: the optimiser, the run that can be resumed, the VAE's shortcuts, the losses, the bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from training import finetune_decoder
from training.clips import MOTION_FRAMES, Known, draw_clip
from training.examples import draw_damage, windows_of
from training.export import write_bundle
from training.muon import Muon, orthogonalize
from training.random_weights import random_networks
from training.scenes import SMALL
from training.shards import Shards, cut
from training.training_loop import TrainingRun, descend, schedule, step_generator
from training.transformer import Objective, binding_loss, class_maps
from training.vae import SingleFrames, decode, draw_crops, start_from_pictures
from training.voices import Voice, synthesize
from wan.checkpoint import load_models
from wan.chunks import Chunk
from wan.conditioning.speech import speech_windows
from wan.configs import ModelConfig
from wan.modules import speaker_labels
from wan.modules.speaker_labels import SpeakerMasks
from wan.modules.vae import build_vae


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5)])
def test_orthogonalized_updates_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert values.max() < 1.3
    assert values.median() > 0.6


def one_run(folder: Path, steps: int) -> nn.Module:
    """Some steps of a regression; goes on where the folder's state ends."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    run = TrainingRun(folder, model, Muon(model, apart=lambda name: name.startswith("2.")))
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


def test_a_resumed_run_takes_the_rates_that_it_is_given(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    for peak in (0.02, 0.005):
        run = TrainingRun(tmp_path, model, Muon(model, apart=lambda _: False, matrix_peak=peak))
        assert run.optimizer.param_groups[0]["peak"] == peak
        run.save()


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
    Voice(clean=sound, mixed=sound) for sound in (synthesize(np.random.default_rng(i), 8.0, "train") for i in (0, 1))
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
    chunk = Chunk(index=0, start=20, stop=29, overlap=0, num_new=9)
    stored = torch.stack([track[18:31] for track in tracks])
    torch.testing.assert_close(windows_of(stored[None])[0], speech_windows(tracks, chunk, 5))


def test_the_binding_loss_is_least_when_every_token_finds_its_class() -> None:
    columns = torch.eye(3).repeat(2, 1)[None]
    masks = SpeakerMasks(columns, columns.sum(1))
    perfect, lost = columns.repeat(1, 4, 1), torch.ones(1, 24, 3)
    assert binding_loss([perfect], masks)[0] < 0.01 < 1 < binding_loss([lost], masks)[0]
    assert binding_loss([perfect], masks)[1] == 1


def random_batch(clips: int, clean: int = 0) -> dict[str, torch.Tensor]:
    """Two persons in frames of 64 x 128 pixels, as a shard holds them, 33 frames."""
    draw = torch.Generator().manual_seed(0)
    masks = torch.zeros(clips, 3, 8, 16)
    masks[:, 0, :, :7], masks[:, 1, :, 9:], masks[:, 2, :, 7:9] = 1, 1, 1
    return {
        "video": torch.randn(clips, 16, 9, 8, 16, generator=draw),
        "condition": torch.randn(clips, 16, 9, 8, 16, generator=draw),
        "handed": torch.randn(clips, 16, 3, 8, 16, generator=draw),
        "known": torch.ones(clips, dtype=torch.long),
        "clean": torch.full((clips,), clean),
        "speech": torch.randn(clips, 2, 37, 4, 64, generator=draw),
        "text": torch.randn(clips, 128, 64, generator=draw),
        "image": torch.randn(clips, 17, 64, generator=draw),
        "masks": masks,
        "mouths": torch.zeros(clips, 8, 16),
    }


def test_the_objective_can_be_learnt_by_heart(puppet: ModelConfig) -> None:
    model = random_networks(puppet, seed=0).transformer
    objective, batch = Objective(model, torch.zeros(1, 128, 64)), cut(random_batch(2), 9)
    optimizer = Muon(model, lambda name: not name.startswith("blocks."))
    losses = []
    for _ in range(8):
        loss, figures = objective(batch, np.random.default_rng(1), step_generator(0, 1))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"]
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= figures["bound"] <= 1


def test_frames_that_the_noise_spares_are_not_asked_for(puppet: ModelConfig) -> None:
    model = random_networks(puppet, seed=0).transformer
    objective = Objective(model, torch.zeros(1, 128, 64))
    batch = cut(random_batch(2, clean=9), 13)
    with torch.no_grad():
        losses = []
        for factor in (1.0, 5.0):  # targets of spared frames do not count, those of the others do
            spared = batch | {"video": batch["video"] * torch.tensor([factor, factor, factor, 1.0])[:, None, None]}
            losses.append(objective(spared, np.random.default_rng(1), step_generator(0, 1))[1]["plain"])
    assert losses[1] < 2 * losses[0]


def test_damage_lasts() -> None:
    damage = draw_damage(torch.zeros(64, 16, 3, 8, 8), torch.Generator().manual_seed(0))
    assert damage.mean(2).std() > 0.7 * damage.std() > 0


def test_shards_give_batches_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"training\.dataset"):
        Shards(tmp_path).refresh()
    save_file(random_batch(4), tmp_path / "a.safetensors")
    shards = Shards(tmp_path)
    shards.refresh()
    assert shards.draw(np.random.default_rng(0), 2, 33)["video"].shape == (2, 16, 9, 8, 16)
    short = shards.draw(np.random.default_rng(0), 2, 17)
    assert short["video"].shape == (3, 16, 5, 8, 16)
    assert short["speech"].shape == (3, 2, 21, 4, 64)


def test_recording_the_maps_ends_with_its_context() -> None:
    before = speaker_labels.attention_to_classes
    with class_maps() as maps:
        assert speaker_labels.attention_to_classes is not before
    assert speaker_labels.attention_to_classes is before
    assert maps == []


def test_a_bundle_in_bfloat16_is_what_was_trained_rounded(puppet: ModelConfig, tmp_path: Path) -> None:
    networks = random_networks(puppet, seed=0)
    write_bundle(puppet, networks, tmp_path, torch.bfloat16)
    models = load_models(puppet, tmp_path, torch.device("cpu"))
    for name, loaded in models.transformer.state_dict().items():
        written = networks.transformer.state_dict()[name]
        torch.testing.assert_close(loaded, written, rtol=0.01, atol=1e-6)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 40e6


def test_training_the_decoder_leaves_the_latents_alone(puppet: ModelConfig) -> None:
    torch.manual_seed(0)
    vae = build_vae(puppet.vae)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    loss, figures = finetune_decoder.loss_of(vae, draw_crops(np.random.default_rng(0), 1, 5), step_generator(0, 0))
    loss.backward()
    assert figures["same"] > 0
    assert all(p.grad is None for part in (vae.encoder, vae.quant_conv) for p in part.parameters())
    assert all(p.grad is not None for p in vae.decoder.parameters())
