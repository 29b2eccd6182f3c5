"""`python -m training.encoders DIR`: train what hears, what reads and what sees for the small model.

Each encoder learns to tell, through a head that is thrown away, what the video model will want to know: the speech
encoder how a mouth stands, the text encoder what a prompt asks for, the vision tower what is in a picture.
Shapes: B batch, N samples, F frames, S tokens, C width.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import CLIPVisionModel

from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.media.rates import SAMPLES_PER_FRAME
from training.characters import GLASSES, HAIR_STYLES, HATS
from training.components import CONFIG, build_tokenizer, speech_config
from training.mouths import opening_track, shape_track
from training.muon import Muon
from training.scenes import SMALL, describe, draw_scene, render
from training.training_loop import DEVICE, TrainingRun, descend, schedule
from training.voices import Voice, disturb, draw_voice
from wan.modules.image import ImageEncoder, build_image_encoder
from wan.modules.text import build_text_encoder, clean_prompt

_VOICES = 400
_SIDES = 4
"""Cells of a picture, along each side, whose colour the vision tower is asked for."""
_KINDS = [2, len(HAIR_STYLES), len(HATS), len(GLASSES)]
"""How many answers there are: persons, and the first one's hair, hat and glasses."""

Loss = Callable[[np.random.Generator], tuple[Tensor, dict[str, float]]]


class Trainee(nn.Module):
    """An encoder and the head it learns through."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head


def speech_loss(trainee: Trainee, voices: list[Voice], batch: int = 8) -> Loss:
    """Mean squared error of opening and shape in every frame, from the states of every layer."""
    encoder = cast(Wav2Vec2Model, trainee.encoder)

    def loss(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        frames = int(rng.integers(40, 200))
        sounds, targets = zip(*(_piece(rng, voices, frames) for _ in range(batch)), strict=True)
        states_BFYC = encoder.layer_states(torch.from_numpy(np.stack(sounds)).to(DEVICE))
        wanted_BF2 = torch.from_numpy(np.stack(targets)).float().to(DEVICE)
        error = (trainee.head(states_BFYC) - wanted_BF2[:, :, None]).square()
        return error.mean(), {"opening": error[:, :, -1, 0].mean().item(), "shape": error[:, :, -1, 1].mean().item()}

    return loss


def _piece(rng: np.random.Generator, voices: list[Voice], frames: int) -> tuple[np.ndarray, np.ndarray]:
    """A padded track as the pipeline would make one: (N,) of unit variance, and its opening and shape, F x 2."""
    voice = voices[rng.integers(len(voices))]
    heard = voice.mixed if rng.random() < 0.5 else disturb(rng, voice.clean)
    spoken = min(frames, len(voice.clean) // SAMPLES_PER_FRAME)
    if rng.random() < 0.5:
        spoken = max(12, int(spoken * rng.uniform(0.2, 1.0)))
    start = int(rng.integers(0, len(voice.clean) // SAMPLES_PER_FRAME - spoken + 1)) * SAMPLES_PER_FRAME
    before = int(rng.integers(0, frames - spoken + 1))
    around = (before * SAMPLES_PER_FRAME, (frames - spoken - before) * SAMPLES_PER_FRAME)
    stop = start + spoken * SAMPLES_PER_FRAME
    clean_sound, sound = np.pad(voice.clean[start:stop], around), np.pad(heard[start:stop], around)
    target = np.stack((opening_track(clean_sound), shape_track(clean_sound)), axis=1)
    return (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7), target


def text_loss(trainee: Trainee, batch: int = 16) -> Loss:
    """Cross entropy of what is asked for, from the states of every token of a prompt."""
    tokenizer = build_tokenizer(CONFIG)

    def loss(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        error, right = torch.zeros((), device=DEVICE), 0.0
        for _ in range(batch):
            asked = rng.random(2) < 0.4
            persons = int(rng.integers(1, 3))
            prompt = describe(rng, persons, *asked.tolist())
            if rng.random() < 0.1:
                prompt, asked, persons = CONFIG.negative_prompt, np.zeros(2, bool), 1
            ids = torch.tensor([tokenizer(clean_prompt(prompt))["input_ids"]], device=DEVICE)
            states = trainee.encoder(input_ids=ids).last_hidden_state[0]
            logits = trainee.head(states)
            wanted = torch.tensor([*asked, persons == 2], device=DEVICE).float()
            error = error + functional.binary_cross_entropy_with_logits(logits.mean(0), wanted) / batch
            error = error + 0.1 * states.square().mean() / batch
            right += float(((logits.mean(0)[:2] > 0) == wanted[:2].bool()).float().mean()) / batch
        return error, {"right": right}

    return loss


def image_loss(trainee: Trainee, batch: int = 16) -> Loss:
    """Colours of a grid of cells, number of persons, hair, hat and glasses, from all tokens together."""
    preprocess = ImageEncoder(cast(CLIPVisionModel, trainee.encoder)).preprocess

    def loss(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        pixels, colors, classes = [], [], []
        for _ in range(batch):
            persons = int(rng.integers(1, 3))
            size = list(SMALL.values())[rng.integers(len(SMALL))]
            scene = draw_scene(rng, persons, size, 1, "train")
            frame = render(scene, [rng.random(1) for _ in range(persons)], [np.zeros(1)] * persons)[0]
            frame_CHW = torch.from_numpy(frame).permute(2, 0, 1).float() / 127.5 - 1
            pixels.append(preprocess(frame_CHW)[0])
            colors.append(functional.adaptive_avg_pool2d(frame_CHW, _SIDES).flatten())
            who = scene.people[0]
            kinds = (HAIR_STYLES.index(who.hair), HATS.index(who.hat), GLASSES.index(who.glasses))
            classes.append([persons - 1, *kinds])
        hidden = trainee.encoder(pixel_values=torch.stack(pixels).to(DEVICE)).last_hidden_state
        guess_colors, guess_classes = trainee.head(hidden.flatten(1)).split([3 * _SIDES**2, sum(_KINDS)], dim=1)
        wanted = torch.tensor(classes, device=DEVICE).unbind(1)
        entropies = [
            functional.cross_entropy(guess, truth)
            for guess, truth in zip(guess_classes.split(_KINDS, dim=1), wanted, strict=True)
        ]
        color = (guess_colors - torch.stack(colors).to(DEVICE)).square().mean()
        return color * 10 + sum(entropies), {"colour": color.item(), "kinds": float(sum(entropies))}

    return loss


def build(part: str, seed: int) -> tuple[Trainee, Loss]:
    """A fresh encoder ("speech", "text" or "image") with its head, and its loss."""
    torch.manual_seed(seed)
    if part == "speech":
        trainee = Trainee(Wav2Vec2Model(speech_config(CONFIG)), nn.Linear(CONFIG.transformer.audio_dim, 2))
        rng = np.random.default_rng(seed)
        return trainee, speech_loss(trainee, [draw_voice(rng, 8.0, "train") for _ in range(_VOICES)])
    if part == "text":
        trainee = Trainee(build_text_encoder(CONFIG.text_encoder), nn.Linear(CONFIG.text_encoder.dim, 3))
        return trainee, text_loss(trainee)
    width = CONFIG.transformer.image_tokens * CONFIG.image_encoder.dim
    trainee = Trainee(build_image_encoder(CONFIG.image_encoder), nn.Linear(width, 3 * _SIDES**2 + sum(_KINDS)))
    return trainee, image_loss(trainee)


def train(part: str, folder: Path, steps: int, seed: int) -> None:
    """Train, or go on, until `steps`."""
    trainee, loss_of = build(part, seed)
    trainee.to(DEVICE)
    run = TrainingRun(folder, trainee, Muon(trainee, apart=lambda name: "embed" in name or "head" in name))
    while run.step < steps:
        loss, figures = loss_of(np.random.default_rng((seed, run.step)))
        norm = descend(loss, run, schedule(run.step, steps))
        run.log({"loss": loss.item(), **figures, "gradient": norm})
        if run.step % 250 == 0:
            run.save()
    run.save()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.encoders", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--parts", nargs="+", default=["speech", "text", "image"])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for part in options.parts:
        train(part, options.folder / part, options.steps, options.seed)


if __name__ == "__main__":
    main()
