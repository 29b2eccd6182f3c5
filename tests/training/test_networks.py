"""Training code: optimizer, resumable runs, VAE shortcuts, losses, shards and export."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.training.overfit import overfit
from training import finetune_decoder
from training.clips import MOTION_FRAMES, ConditionKind, sample_clip, sample_long_clip
from training.components import load_encoders
from training.dataset import FRAMES
from training.examples import prepare, sample_corruption, to_windows
from training.export import write_bundle
from training.muon import Muon, orthogonalize
from training.random_weights import random_networks
from training.rollouts import NEW_FRAMES, split_chunks
from training.scenes import SMALL
from training.shards import Shards, truncate_frames
from training.training_loop import TrainingRun, load_ema_weights, step_generator
from training.transformer import TrainingLoss, binding_loss, record_class_attention
from training.unpack import unpack
from training.vae import SingleFrames, decode, init_framewise, normalize_latents, sample_crops
from training.voices import Voice, synthesize_formants
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


def test_vae_shortcuts_give_the_same_result(puppet: ModelConfig) -> None:
    torch.manual_seed(0)
    vae = build_vae(puppet.vae)
    video = sample_crops(np.random.default_rng(0), 1, 5)
    with torch.no_grad():
        latent = vae.encode(video).latent_dist.mode()
        with SingleFrames():
            torch.testing.assert_close(vae.encode(video).latent_dist.mode(), latent, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(decode(vae, latent).clamp(-1, 1), vae.decode(latent).sample)


def test_normalized_latents_give_the_same_video(puppet: ModelConfig) -> None:
    torch.manual_seed(0)
    vae = build_vae(puppet.vae)
    video = sample_crops(np.random.default_rng(0), 1, 5)
    with torch.no_grad():
        posterior = vae.encode(video).latent_dist
        decoded = decode(vae, posterior.mode())
        latents = posterior.mode().transpose(0, 1).flatten(1)
        statistics = {"latents_mean": latents.mean(1).tolist(), "latents_std": latents.std(1).tolist()}
        state = vae.state_dict()
        normalize_latents(state, statistics)
        vae.load_state_dict(state)
        normalized = vae.encode(video).latent_dist.mode()
        torch.testing.assert_close(decode(vae, normalized), decoded, rtol=1e-3, atol=1e-4)
    means = normalized.transpose(0, 1).flatten(1).mean(1)
    torch.testing.assert_close(means, torch.tensor(puppet.vae.latents_mean), rtol=1e-2, atol=1e-2)


def test_framewise_init_processes_each_frame_alone(puppet: ModelConfig) -> None:
    torch.manual_seed(0)
    vae = build_vae(puppet.vae)
    init_framewise(vae)
    still = sample_crops(np.random.default_rng(0), 1, 1).expand(-1, -1, 9, -1, -1)
    with torch.no_grad():
        latent = vae.encode(still).latent_dist.mode()
        decoded = decode(vae, latent)
    torch.testing.assert_close(latent[:, :, 1:], latent[:, :, :1].expand(-1, -1, 2, -1, -1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(decoded[:, :, 1:], decoded[:, :, :1].expand(-1, -1, 8, -1, -1), rtol=1e-3, atol=1e-4)


VOICES = [
    Voice(clean=waveform, noisy=waveform)
    for waveform in (synthesize_formants(np.random.default_rng(i), 8.0, "train") for i in (0, 1))
]


@pytest.mark.parametrize("kind", ["image", "motion", "infinitetalk"])
def test_conditioning_frames_of_a_clip(kind: ConditionKind) -> None:
    for seed in range(6):
        clip = sample_clip(np.random.default_rng(seed), VOICES, 2, SMALL["wide"], 33, kind)
        assert clip.video.shape == (33, 64, 128, 3)
        assert len(clip.condition) == (MOTION_FRAMES if kind == "motion" else 1)
        assert clip.num_clean in ({1, MOTION_FRAMES} if kind == "infinitetalk" else {0})
        if kind != "infinitetalk":
            np.testing.assert_array_equal(clip.condition, clip.video[: len(clip.condition)])
        assert len({len(waveform) for waveform in clip.waveforms}) == 1
        assert (clip.masks_3hw.sum(0) >= 1).all()
        assert 0 < clip.mouths_hw.sum() < clip.mouths_hw.numel() / 2


def test_windows_equal_those_of_the_pipeline() -> None:
    tracks = tuple(torch.randn(60, 4, 8) for _ in range(2))
    chunk = Chunk(index=0, start=20, stop=29, overlap=0, num_new=9)
    stored = torch.stack([track[18:31] for track in tracks])
    torch.testing.assert_close(to_windows(stored[None])[0], speech_windows(tracks, chunk, 5))


def test_binding_loss_is_lowest_for_the_true_classes() -> None:
    classes = torch.eye(3).repeat(2, 1)[None]
    masks = SpeakerMasks(classes, classes.sum(1))
    perfect, uniform = classes.repeat(1, 4, 1), torch.ones(1, 24, 3)
    assert binding_loss([perfect], masks)[0] < 0.01 < 1 < binding_loss([uniform], masks)[0]
    assert binding_loss([perfect], masks)[1] == 1


def random_batch(clips: int, clean: int = 0) -> dict[str, torch.Tensor]:
    """A shard of random clips of two persons, 33 frames of 64 x 128 pixels."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(clips, 3, 8, 16)
    masks[:, 0, :, :7], masks[:, 1, :, 9:], masks[:, 2, :, 7:9] = 1, 1, 1
    return {
        "video": torch.randn(clips, 16, 9, 8, 16, generator=generator),
        "condition": torch.randn(clips, 16, 9, 8, 16, generator=generator),
        "handed": torch.randn(clips, 16, 3, 8, 16, generator=generator),
        "known": torch.ones(clips, dtype=torch.long),
        "clean": torch.full((clips,), clean),
        "speech": torch.randn(clips, 2, 37, 4, 64, generator=generator),
        "text": torch.randn(clips, 128, 64, generator=generator),
        "image": torch.randn(clips, 17, 64, generator=generator),
        "masks": masks,
        "mouths": torch.zeros(clips, 8, 16),
    }


def test_training_overfits_one_batch(puppet: ModelConfig) -> None:
    model = random_networks(puppet, seed=0).transformer
    training_loss, batch = TrainingLoss(model, torch.zeros(1, 128, 64)), truncate_frames(random_batch(2), 9)
    optimizer = Muon(model, lambda name: not name.startswith("blocks."))
    losses, metrics = overfit(optimizer, partial(training_loss, batch))
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= metrics["bound"] <= 1


def test_frames_without_noise_have_no_loss(puppet: ModelConfig) -> None:
    model = random_networks(puppet, seed=0).transformer
    training_loss = TrainingLoss(model, torch.zeros(1, 128, 64))
    batch = truncate_frames(random_batch(2, clean=9), 13)
    with torch.no_grad():
        losses = []
        for factor in (1.0, 5.0):  # scales the targets of the clean frames only
            scaled = batch | {"video": batch["video"] * torch.tensor([factor, factor, factor, 1.0])[:, None, None]}
            losses.append(training_loss(scaled, np.random.default_rng(1), step_generator(0, 1))[1]["plain"])
    assert losses[1] < 2 * losses[0]


def test_corruption_is_mostly_constant_in_time() -> None:
    corruption = sample_corruption(torch.zeros(64, 16, 3, 8, 8), torch.Generator().manual_seed(0))
    assert corruption.mean(2).std() > 0.7 * corruption.std() > 0


def test_batches_have_one_frame_size(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"training\.dataset"):
        Shards([tmp_path]).refresh()
    save_file(random_batch(4), tmp_path / "a.safetensors")
    shards = Shards([tmp_path])
    shards.refresh()
    assert shards.sample(np.random.default_rng(0), 2, 33)["video"].shape == (2, 16, 9, 8, 16)
    short = shards.sample(np.random.default_rng(0), 2, 17)
    assert short["video"].shape == (3, 16, 5, 8, 16)
    assert short["speech"].shape == (3, 2, 21, 4, 64)


def test_attention_recording_ends_with_its_context() -> None:
    original = speaker_labels.attention_to_classes
    with record_class_attention() as maps:
        assert speaker_labels.attention_to_classes is not original
    assert speaker_labels.attention_to_classes is original
    assert maps == []


def test_exported_bundle_has_the_trained_weights_in_bfloat16(puppet: ModelConfig, tmp_path: Path) -> None:
    networks = random_networks(puppet, seed=0)
    write_bundle(puppet, networks, tmp_path, torch.bfloat16)
    models = load_models(puppet, tmp_path, torch.device("cpu"))
    for name, loaded in models.transformer.state_dict().items():
        trained = networks.transformer.state_dict()[name]
        torch.testing.assert_close(loaded, trained, rtol=0.01, atol=1e-6)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 40e6


def test_decoder_loss_has_no_gradient_in_the_encoder(puppet: ModelConfig) -> None:
    torch.manual_seed(0)
    vae = build_vae(puppet.vae)
    for module in (vae.encoder, vae.quant_conv):
        module.requires_grad_(False)
    loss, metrics = finetune_decoder.decoder_loss(
        vae, sample_crops(np.random.default_rng(0), 1, 5), step_generator(0, 0)
    )
    loss.backward()
    assert metrics["same"] > 0
    with torch.no_grad():
        worn = finetune_decoder.decoder_loss(
            vae, sample_crops(np.random.default_rng(0), 1, 5), step_generator(0, 0), earlier_trips=2
        )[1]
    assert worn["same"] != metrics["same"]
    assert all(p.grad is None for module in (vae.encoder, vae.quant_conv) for p in module.parameters())
    assert all(p.grad is not None for p in vae.decoder.parameters())


def test_rollouts_become_chunks_that_start_from_the_models_frames() -> None:
    frames = FRAMES + 2 * NEW_FRAMES
    clip = sample_long_clip(np.random.default_rng(0), VOICES, 2, SMALL["wide"], frames)
    assert clip.video.shape == (frames, 64, 128, 3)
    np.testing.assert_array_equal(clip.condition[0], clip.video[0])
    own = 255 - clip.video
    for infinitetalk in (False, True):
        chunks = split_chunks(clip, own, infinitetalk=infinitetalk)
        assert [chunk.start for chunk, _ in chunks] == [NEW_FRAMES, 2 * NEW_FRAMES]
        for chunk, handed in chunks:
            np.testing.assert_array_equal(chunk.video[:MOTION_FRAMES], 255 - handed)
            np.testing.assert_array_equal(chunk.condition, clip.condition if infinitetalk else handed)
            assert chunk.num_clean == (MOTION_FRAMES if infinitetalk else 0)


def test_folders_of_shards_have_equal_shares(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        batch = random_batch(2)
        save_file(batch | {"video": torch.full_like(batch["video"], value)}, tmp_path / name / "0.safetensors")
    save_file(random_batch(2), tmp_path / "a" / "1.safetensors")
    shards = Shards([tmp_path / "a", tmp_path / "b"])
    shards.refresh()
    means = [shards.sample(np.random.default_rng(seed), 2, 33)["video"].mean().item() for seed in range(40)]
    assert 10 < sum(mean == 2.0 for mean in means) < 30


def test_teacher_sees_motion_frames_without_errors() -> None:
    batch = random_batch(3)
    batch["known"], batch["clean"] = torch.tensor([9, 1, 1]), torch.tensor([0, 9, 0])
    examples = prepare(batch, step_generator(0, 0))
    true = examples.with_true_history()
    assert torch.equal(true.corrupted, examples.latent)
    assert torch.equal(true.condition[0, 4:, :3], examples.latent[0, :, :3])
    assert torch.equal(true.condition[1:], examples.condition[1:])
    assert torch.equal(true.condition[:, :4], examples.condition[:, :4])


def test_finished_model_becomes_runs_that_start_from_its_weights(puppet: ModelConfig, tmp_path: Path) -> None:
    networks = random_networks(puppet, seed=0)
    write_bundle(puppet, networks, tmp_path / "model", torch.float32)
    unpack(tmp_path / "model", tmp_path / "runs")
    torch.testing.assert_close(
        load_ema_weights(tmp_path / "runs" / "transformer"), dict(networks.transformer.state_dict())
    )
    encoders = load_encoders(tmp_path / "runs")
    torch.testing.assert_close(dict(encoders.speech.state_dict()), dict(networks.speech.state_dict()))
    model = random_networks(puppet, seed=1).transformer
    run = TrainingRun(tmp_path / "runs" / "transformer", model, Muon(model, lambda _: True))
    assert run.step == 0
    torch.testing.assert_close(dict(model.state_dict()), dict(networks.transformer.state_dict()))
    with pytest.raises(FileExistsError, match="transformer"):
        unpack(tmp_path / "model", tmp_path / "runs")
