"""`python -m training.transformer RUNS DATA`: train the puppet model's transformer on the shards of `training.dataset`.

Flow matching: the target of the network is noise - latent. An auxiliary loss trains every block's attention to the
speakers' regions to classify the tokens, so that speaker binding is not learned from the mouths alone.
Shapes: B batch, L tokens, the rest as in `training.examples`.
"""

from collections.abc import Sequence

from src.command_line import Parser, existing_folder, launch, log_messages, number, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m training.transformer", __doc__)
    parser.add_argument("runs", type=existing_folder, metavar="RUNS", help="folder of the training runs")
    parser.add_argument(
        "data", type=existing_folder, nargs="+", metavar="DATA", help="folders of shards, which have equal shares"
    )
    parser.add_argument("--steps", type=whole_number(), default=10000, help="optimizer steps")
    parser.add_argument("--batch", type=whole_number(), default=8, help="chunks of the smallest frame size per batch")
    parser.add_argument("--lr", type=number(above=True), default=0.01, help="peak learning rate of Muon")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("training.transformer", make_parser)

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.components import CONFIG, load_encoders
from training.dataset import embed_prompt
from training.examples import make_context, prepare
from training.muon import Muon
from training.shards import SHORT_FRAMES, Batch, Shards
from training.training_loop import DEVICE, TrainingRun, lr_schedule, step_generator
from wan.modules import speaker_labels
from wan.modules.speaker_labels import SpeakerMasks
from wan.modules.transformer import MultiTalkTransformer

logger = logging.getLogger(__name__)

_SHIFT = 3.0
_MOUTH_WEIGHT = 3.0
_BINDING_WEIGHT = 0.05
_SPEECH_DROPOUT, _TEXT_DROPOUT = 0.1, 0.12
"""Dropout rates: of speech per batch, and of the prompt, replaced by the negative one, per clip."""
_SHORT_SHARE = 0.6
"""Share of batches of `SHORT_FRAMES` frames; the others have whole chunks."""


class TrainingLoss:
    """The loss of a batch, and values to log; `negative_1SC` is the embedded negative prompt."""

    def __init__(self, model: MultiTalkTransformer, negative_1SC: Tensor) -> None:
        self.model, self.negative = model, negative_1SC

    def __call__(
        self, batch: Batch, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """`rng` samples the dropout; `generator`, on the batch's device, times, noise and corruption."""
        with_speech = bool(rng.random() >= _SPEECH_DROPOUT)
        drop_text = torch.from_numpy(rng.random(len(batch["text"])) < (_TEXT_DROPOUT if with_speech else 0.5)).to(
            DEVICE
        )
        text = torch.where(drop_text[:, None, None], self.negative, batch["text"])
        context = make_context(self.model, batch, text, with_speech)
        examples = prepare(batch, generator)
        t_B = sample_times(len(text), generator)
        with record_class_attention() as maps:
            velocity = examples.predict_velocity(self.model, examples.noised_at(t_B), t_B, context)
        error = (velocity - (examples.noise - examples.latent)).square()
        flow = weighted_mean(error, batch["mouths"], ~examples.clean)
        metrics = {"flow": flow.item(), "plain": (error * ~examples.clean).mean().item()}
        if not maps:
            return flow, metrics
        assert context.masks is not None
        binding, accuracy = binding_loss(maps, context.masks)
        return flow + _BINDING_WEIGHT * binding, metrics | {"binding": binding.item(), "bound": accuracy}


def sample_times(count: int, generator: torch.Generator) -> Tensor:
    """Logit-normal times (Esser et al. 2024), shifted towards 1, one per clip."""
    t_B = torch.sigmoid(torch.randn(count, generator=generator, device=generator.device))
    return _SHIFT * t_B / (1 + (_SHIFT - 1) * t_B)


def weighted_mean(error_BCTHW: Tensor, mouths_BHW: Tensor, mask_BCTHW: Tensor) -> Tensor:
    """Mean of the errors where the mask is true, with a higher weight around mouths."""
    weight = (1 + _MOUTH_WEIGHT * mouths_BHW[:, None, None]) * mask_BCTHW
    return (error_BCTHW * weight).sum() / weight.sum()


@contextlib.contextmanager
def record_class_attention() -> Iterator[list[Tensor]]:
    """Record every block's attention to the classes, B x L x 3; the labels computed from it get no gradient."""
    maps: list[Tensor] = []
    original = speaker_labels.attention_to_classes

    def recorded(q_BLAE: Tensor, k_BLAE: Tensor, masks: SpeakerMasks) -> Tensor:
        maps.append(original(q_BLAE, k_BLAE, masks))
        return maps[-1].detach()

    speaker_labels.attention_to_classes = recorded
    try:
        yield maps
    finally:
        speaker_labels.attention_to_classes = original


def binding_loss(maps: list[Tensor], masks: SpeakerMasks) -> tuple[Tensor, float]:
    """Cross-entropy of the attention to the classes, and its accuracy, as means over blocks.

    The true class of a token is that of its position in the first frame.
    """
    frames = maps[0].shape[1] // masks.masks.shape[1]
    truth_BL3 = masks.masks.repeat(1, frames, 1)
    probabilities = [map_BL3 / map_BL3.sum(-1, keepdim=True).clamp(min=1e-8) for map_BL3 in maps]
    entropy = torch.stack([-(truth_BL3 * (one + 1e-6).log()).sum(-1).mean() for one in probabilities]).mean()
    accuracy = torch.stack([(one.argmax(-1) == truth_BL3.argmax(-1)).float().mean() for one in probabilities]).mean()
    return entropy, accuracy.item()


def train(runs: Path, data: Sequence[Path], steps: int, batch: int, lr: float, seed: int) -> None:
    """Train or resume until `steps`, in the subfolder `transformer` of `runs`."""
    torch.manual_seed(seed)
    model = MultiTalkTransformer(CONFIG.transformer).to(DEVICE)
    torch.nn.init.zeros_(model.head.head.weight)
    run = TrainingRun(runs / "transformer", model, make_optimizer(model, lr), decay=0.9985)
    shards, training_loss = Shards(data), TrainingLoss(model, embed_prompt(load_encoders(runs), CONFIG.negative_prompt))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        if step % 100 == 0 or not any(shards.shards.values()):
            shards.refresh()
        rng = np.random.default_rng((seed, step))
        short = rng.random() < _SHORT_SHARE
        examples = shards.sample(rng, batch, (SHORT_FRAMES if short else CONFIG.frame_num))
        return training_loss(examples, rng, step_generator(seed, step))

    run.train(steps, loss_of, lambda step: lr_schedule(step, steps))


def make_optimizer(model: MultiTalkTransformer, lr: float) -> Muon:
    """Muon for the matrices of the blocks, Adam at a tenth of the rate for all other parameters."""
    return Muon(model, lambda name: not name.startswith("blocks."), muon_lr=lr, adam_lr=lr / 10)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = make_parser().parse_args(argv)
    log_messages()
    train(options.runs, options.data, options.steps, options.batch, options.lr, options.seed)
