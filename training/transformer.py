"""`python -m training.transformer RUNS DATA`: train the small video transformer on what `training.dataset` wrote.

Flow matching: the network is asked for noise - latent. Besides, every block's map of attention to the speakers is asked
to find who a token belongs to: binding then does not have to be discovered from the mouths alone.
Shapes: B batch, L tokens, the rest as in `training.examples`.
"""

import argparse
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.components import CONFIG, load_encoders
from training.dataset import embed_prompt
from training.examples import context_of, prepare
from training.muon import Muon
from training.shards import SHORT, Batch, Shards
from training.training_loop import DEVICE, TrainingRun, descend, schedule, step_generator
from wan.modules import speaker_labels
from wan.modules.speaker_labels import SpeakerMasks
from wan.modules.transformer import MultiTalkTransformer

logger = logging.getLogger(__name__)

_SHIFT = 3.0
_MOUTH_WEIGHT = 3.0
_BINDING_WEIGHT = 0.05
_NO_SPEECH, _NO_TEXT = 0.1, 0.12
"""How often a batch hears nothing, and a clip reads the negative prompt, as the passes of the guidance do."""
_SHORT_SHARE = 0.6
"""Of the batches; the others are whole chunks."""


class Objective:
    """The loss of a batch, and the figures that are watched; `negative` is the embedded negative prompt."""

    def __init__(self, model: MultiTalkTransformer, negative_1SC: Tensor) -> None:
        self.model, self.negative = model, negative_1SC

    def __call__(
        self, batch: Batch, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """`rng` draws what is left out of a batch, `generator`, on the batch's device, times, noise and damage."""
        hears = bool(rng.random() >= _NO_SPEECH)
        unread = torch.from_numpy(rng.random(len(batch["text"])) < (_NO_TEXT if hears else 0.5)).to(DEVICE)
        text = torch.where(unread[:, None, None], self.negative, batch["text"])
        context = context_of(self.model, batch, text, hears)
        examples = prepare(batch, generator)
        t_B = draw_times(len(text), generator)
        with class_maps() as maps:
            velocity = examples.velocity(self.model, examples.at(t_B), t_B, context)
        error = (velocity - (examples.noise - examples.latent)).square()
        flow = weighted(error, batch["mouths"], ~examples.clean)
        figures = {"flow": flow.item(), "plain": (error * ~examples.clean).mean().item()}
        if not maps:
            return flow, figures
        assert context.masks is not None
        binding, right = binding_loss(maps, context.masks)
        return flow + _BINDING_WEIGHT * binding, figures | {"binding": binding.item(), "bound": right}


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """Logit-normal (Esser et al. 2024), shifted towards 1, one a clip."""
    t_B = torch.sigmoid(torch.randn(count, generator=generator, device=generator.device))
    return _SHIFT * t_B / (1 + (_SHIFT - 1) * t_B)


def weighted(error_BCTHW: Tensor, mouths_BHW: Tensor, counts_BCTHW: Tensor) -> Tensor:
    """The mean of errors where they count, around mouths more."""
    weight = (1 + _MOUTH_WEIGHT * mouths_BHW[:, None, None]) * counts_BCTHW
    return (error_BCTHW * weight).sum() / weight.sum()


@contextlib.contextmanager
def class_maps() -> Iterator[list[Tensor]]:
    """Collects every block's map of attention to the classes, B x L x 3; the labels made of it get no gradient."""
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
    """Cross entropy between a token's attention to the classes and the class that its place has in the first frame,
    mean over blocks; and the share of tokens that the largest value puts right."""
    frames = maps[0].shape[1] // masks.masks.shape[1]
    truth_BL3 = masks.masks.repeat(1, frames, 1)
    share = [map_BL3 / map_BL3.sum(-1, keepdim=True).clamp(min=1e-8) for map_BL3 in maps]
    entropy = torch.stack([-(truth_BL3 * (one + 1e-6).log()).sum(-1).mean() for one in share]).mean()
    right = torch.stack([(one.argmax(-1) == truth_BL3.argmax(-1)).float().mean() for one in share]).mean()
    return entropy, right.item()


def train(runs: Path, data: Path, steps: int, batch: int, peak: float, seed: int) -> None:
    """Train, or go on, until `steps`; the state is below `runs`."""
    torch.manual_seed(seed)
    model = MultiTalkTransformer(CONFIG.transformer).to(DEVICE)
    torch.nn.init.zeros_(model.head.head.weight)
    run = TrainingRun(runs / "transformer", model, optimizer_of(model, peak), decay=0.9985)
    shards, objective = Shards(data), Objective(model, embed_prompt(load_encoders(runs), CONFIG.negative_prompt))
    while run.step < steps:
        if run.step % 100 == 0 or not shards.shards:
            shards.refresh()
        rng = np.random.default_rng((seed, run.step))
        short = rng.random() < _SHORT_SHARE
        examples = shards.draw(rng, batch, (SHORT if short else CONFIG.frame_num))
        loss, figures = objective(examples, rng, step_generator(seed, run.step))
        norm = descend(loss, run, schedule(run.step, steps))
        run.log({"loss": loss.item(), **figures, "gradient": norm})
        if run.step % 250 == 0:
            run.save()
    run.save()


def optimizer_of(model: MultiTalkTransformer, peak: float) -> Muon:
    """Muon for the blocks' matrices, Adam at a tenth of its rate for all else."""
    return Muon(model, lambda name: not name.startswith("blocks."), matrix_peak=peak, other_peak=peak / 10)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.transformer", description=__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(options.runs, options.data, options.steps, options.batch, options.lr, options.seed)


if __name__ == "__main__":
    main()
