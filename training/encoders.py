"""`python -m training.encoders DIR`: train the speech, text and image encoders of the puppet model.

Each encoder is trained, through a head that is discarded, on a task that the video model depends on: the speech encoder
on mouth opening and shape, the text encoder on the expressions in a prompt, the image encoder on the image's content.
Shapes: B batch, N samples, F frames, S tokens, C width.
"""

from collections.abc import Sequence

from src.command_line import Parser, launch, log_messages, output_folder, whole_number

ENCODERS = ["speech", "text", "image"]


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m training.encoders", __doc__)
    parser.add_argument("folder", type=output_folder, metavar="RUNS", help="folder of the training runs")
    parser.add_argument("--encoders", "--parts", nargs="+", choices=ENCODERS, default=ENCODERS, help="which to train")
    parser.add_argument("--steps", type=whole_number(), default=1500, help="optimizer steps")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("training.encoders", make_parser)

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
from training.editions import EDITION
from training.mouths import opening_curve, shape_curve
from training.muon import Muon
from training.prompts import IDLE, SHADED_IDLE, sample_prompt
from training.scenes import render, sample_scene
from training.training_loop import DEVICE, TrainingRun, lr_schedule
from training.voices import Voice, add_noise, sample_voice
from wan.modules.image import ImageEncoder, build_image_encoder
from wan.modules.text import build_text_encoder, clean_prompt

logger = logging.getLogger(__name__)

_NUM_VOICES = 400
_GRID = 4
"""Grid size, along each side, of the cells whose mean color the image encoder predicts."""
_NUM_CLASSES = [2, len(HAIR_STYLES), len(HATS), len(GLASSES)]
"""Numbers of classes: persons, and hair, hat and glasses of the first person."""

Loss = Callable[[np.random.Generator], tuple[Tensor, dict[str, float]]]


class EncoderWithHead(nn.Module):
    """An encoder and its training head."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head


def speech_loss(model: EncoderWithHead, voices: list[Voice], batch: int = 8) -> Loss:
    """Mean squared error of opening and shape in every frame, predicted from the states of every layer."""
    encoder = cast(Wav2Vec2Model, model.encoder)

    def loss(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        frames = int(rng.integers(40, 200))
        waveforms, targets = zip(*(_sample_speech(rng, voices, frames) for _ in range(batch)), strict=True)
        states_BFYC = encoder.layer_states(torch.from_numpy(np.stack(waveforms)).to(DEVICE))
        target_BF2 = torch.from_numpy(np.stack(targets)).float().to(DEVICE)
        error = (model.head(states_BFYC) - target_BF2[:, :, None]).square()
        return error.mean(), {"opening": error[:, :, -1, 0].mean().item(), "shape": error[:, :, -1, 1].mean().item()}

    return loss


def _sample_speech(rng: np.random.Generator, voices: list[Voice], frames: int) -> tuple[np.ndarray, np.ndarray]:
    """A padded waveform of unit variance, (N,), as in the pipeline, and its opening and shape, F x 2."""
    voice = voices[rng.integers(len(voices))]
    noisy = voice.noisy if rng.random() < 0.5 else add_noise(rng, voice.clean)
    spoken = min(frames, len(voice.clean) // SAMPLES_PER_FRAME)
    if rng.random() < 0.5:
        spoken = max(12, int(spoken * rng.uniform(0.2, 1.0)))
    start = int(rng.integers(0, len(voice.clean) // SAMPLES_PER_FRAME - spoken + 1)) * SAMPLES_PER_FRAME
    before = int(rng.integers(0, frames - spoken + 1))
    padding = (before * SAMPLES_PER_FRAME, (frames - spoken - before) * SAMPLES_PER_FRAME)
    stop = start + spoken * SAMPLES_PER_FRAME
    clean, waveform = np.pad(voice.clean[start:stop], padding), np.pad(noisy[start:stop], padding)
    target = np.stack((opening_curve(clean), shape_curve(clean)), axis=1)
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7), target


def text_loss(model: EncoderWithHead, batch: int = 16) -> Loss:
    """Binary cross-entropy of expressions and number of persons, predicted from the states of all tokens."""
    tokenizer = build_tokenizer(CONFIG)
    phrases, idle = EDITION.phrases, SHADED_IDLE if EDITION.drawing == "shaded" else IDLE

    def loss(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        error, accuracy = torch.zeros((), device=DEVICE), 0.0
        for _ in range(batch):
            expressions = rng.random(len(phrases)) < min(0.4, 1.6 / len(phrases))
            persons = int(rng.integers(1, 3))
            shown = [phrase for phrase, is_shown in zip(phrases, expressions, strict=True) if is_shown]
            prompt = sample_prompt(rng, persons, shown, idle)
            if rng.random() < 0.1:
                prompt, expressions, persons = CONFIG.negative_prompt, np.zeros(len(phrases), bool), 1
            ids = torch.tensor([tokenizer(clean_prompt(prompt))["input_ids"]], device=DEVICE)
            states = model.encoder(input_ids=ids).last_hidden_state[0]
            logits = model.head(states)
            target = torch.tensor([*expressions, persons == 2], device=DEVICE).float()
            error = error + functional.binary_cross_entropy_with_logits(logits.mean(0), target) / batch
            error = error + 0.1 * states.square().mean() / batch
            accuracy += float(((logits.mean(0)[:-1] > 0) == target[:-1].bool()).float().mean()) / batch
        return error, {"right": accuracy}

    return loss


def image_loss(model: EncoderWithHead, batch: int = 16) -> Loss:
    """Errors of cell colors, number of persons, hair, hat and glasses, predicted from all tokens together."""
    preprocess = ImageEncoder(cast(CLIPVisionModel, model.encoder)).preprocess

    def loss(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        pixels, colors, classes = [], [], []
        for _ in range(batch):
            persons = int(rng.integers(1, 3))
            size = list(EDITION.sizes.values())[rng.integers(len(EDITION.sizes))]
            scene = sample_scene(rng, persons, size, 1, "train", EDITION.drawing)
            frame = render(scene, [rng.random(1) for _ in range(persons)], [np.zeros(1)] * persons)[0]
            frame_CHW = torch.from_numpy(frame).permute(2, 0, 1).float() / 127.5 - 1
            pixels.append(preprocess(frame_CHW)[0])
            colors.append(functional.adaptive_avg_pool2d(frame_CHW, _GRID).flatten())
            first = scene.characters[0]
            looks = (HAIR_STYLES.index(first.hair), HATS.index(first.hat), GLASSES.index(first.glasses))
            classes.append([persons - 1, *looks])
        hidden = model.encoder(pixel_values=torch.stack(pixels).to(DEVICE)).last_hidden_state
        predicted_colors, logits = model.head(hidden.flatten(1)).split([3 * _GRID**2, sum(_NUM_CLASSES)], dim=1)
        targets = torch.tensor(classes, device=DEVICE).unbind(1)
        entropies = [
            functional.cross_entropy(prediction, target)
            for prediction, target in zip(logits.split(_NUM_CLASSES, dim=1), targets, strict=True)
        ]
        color = (predicted_colors - torch.stack(colors).to(DEVICE)).square().mean()
        return color * 10 + sum(entropies), {"color": color.item(), "kinds": float(sum(entropies))}

    return loss


def build(name: str, seed: int) -> tuple[EncoderWithHead, Loss]:
    """An untrained encoder ("speech", "text" or "image") with its head, and its loss."""
    torch.manual_seed(seed)
    if name == "speech":
        model = EncoderWithHead(Wav2Vec2Model(speech_config(CONFIG)), nn.Linear(CONFIG.transformer.audio_dim, 2))
        rng = np.random.default_rng(seed)
        logger.info("synthesizing %d voices", _NUM_VOICES)
        return model, speech_loss(model, [sample_voice(rng, 8.0, "train") for _ in range(_NUM_VOICES)])
    if name == "text":
        model = EncoderWithHead(
            build_text_encoder(CONFIG.text_encoder), nn.Linear(CONFIG.text_encoder.dim, len(EDITION.phrases) + 1)
        )
        return model, text_loss(model)
    width = CONFIG.transformer.image_tokens * CONFIG.image_encoder.dim
    model = EncoderWithHead(
        build_image_encoder(CONFIG.image_encoder), nn.Linear(width, 3 * _GRID**2 + sum(_NUM_CLASSES))
    )
    return model, image_loss(model)


def train(name: str, folder: Path, steps: int, seed: int) -> None:
    """Train or resume until `steps`."""
    model, loss_of = build(name, seed)
    model.to(DEVICE)
    run = TrainingRun(
        folder, model, Muon(model, use_adam=lambda parameter: "embed" in parameter or "head" in parameter)
    )
    run.train(steps, lambda step: loss_of(np.random.default_rng((seed, step))), lambda step: lr_schedule(step, steps))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = make_parser().parse_args(argv)
    log_messages()
    for name in options.encoders:
        train(name, options.folder / name, options.steps, options.seed)
