"""`python -m training.distil RUNS DATA FILE`: a LoRA with which the trained transformer needs few steps and one pass.

The student, the transformer with low-rank changes of its blocks' linear layers (Hu et al. 2021), is asked to get from
one of its few times to the next in one step, where the teacher, the transformer itself, guided, takes several shorter
ones (after Salimans & Ho 2022; guidance folded in as by Meng et al. 2023). FILE has the names that LoRAs of Wan have.
Shapes: B batch, C latent channels, T latent frames, h x w latent rows and columns.
"""

import argparse
import copy
import itertools
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.components import CONFIG, filled, load_encoders
from training.dataset import embed_prompt
from training.examples import Examples, context_of, prepare
from training.muon import Muon
from training.shards import SHORT, Batch, Shards
from training.training_loop import DEVICE, TrainingRun, descend, load_average, schedule, step_generator
from training.transformer import weighted
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.sampling.guidance import PASSES, ClassifierFreeGuidance
from wan.sampling.schedule import NUM_TRAIN_TIMESTEPS, timesteps

_RANK = 16
_CHANGED = "parametrizations.weight.0."


class LowRank(nn.Module):
    """A weight with a product of two thin matrices added, which begins at nothing."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out, inputs = weight.shape
        self.down = nn.Parameter(torch.randn(rank, inputs, device=weight.device) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(out, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + self.up @ self.down


def student_of(teacher: MultiTalkTransformer, rank: int = _RANK) -> MultiTalkTransformer:
    """A copy whose blocks' linear layers can change, and nothing else."""
    student = copy.deepcopy(teacher).requires_grad_(False)
    for layer in list(student.blocks.modules()):
        if isinstance(layer, nn.Linear):
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))
    return student


def lora_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A student's state as the tensors of a LoRA file, bfloat16, contiguous."""
    return {
        "diffusion_model." + name.replace(_CHANGED, "lora_") + ".weight": value.to(torch.bfloat16).contiguous()
        for name, value in state.items()
        if _CHANGED in name
    }


class Distillation:
    """The loss of a batch, and the figures that are watched.

    The student steps as the preset `fast` does; the teacher takes `finer` as many steps, guided as in `quality` unless
    `guidance` says otherwise (scales of text and of speech).
    """

    def __init__(
        self,
        teacher: MultiTalkTransformer,
        student: MultiTalkTransformer,
        negative_1SC: Tensor,
        finer: int = 3,
        guidance: tuple[float, float] | None = None,
    ) -> None:
        self.teacher, self.student, self.negative = teacher, student, negative_1SC
        fast, quality = CONFIG.presets["fast"], CONFIG.presets["quality"]
        self.times = (timesteps(fast.sampling_steps, fast.shift["480"]) / NUM_TRAIN_TIMESTEPS).to(DEVICE)
        self.finer = finer
        self.guider = ClassifierFreeGuidance(*(guidance or (quality.text_guide_scale, quality.audio_guide_scale)))

    def __call__(
        self, batch: Batch, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """`rng` draws which step each clip is at, `generator`, on the batch's device, noise and damage."""
        examples = prepare(batch, generator)
        steps_B = torch.from_numpy(rng.integers(len(self.times) - 1, size=len(batch["video"]))).to(DEVICE)
        start_B, stop_B = self.times[steps_B], self.times[steps_B + 1]
        state = examples.at(start_B)
        with torch.no_grad():
            goal = self.follow(batch, examples, start_B, stop_B)
            wanted = (state - goal) / (start_B - stop_B)[:, None, None, None, None]
        context = context_of(self.student, batch, batch["text"], hears=True)
        error = (examples.velocity(self.student, state, start_B, context) - wanted).square()
        loss = weighted(error, batch["mouths"], ~examples.motion)
        return loss, {"plain": (error * ~examples.motion).mean().item()}

    def follow(self, batch: Batch, examples: Examples, start_B: Tensor, stop_B: Tensor) -> Tensor:
        """Where the teacher's finer steps lead."""
        contexts = {name: self.context(batch, name) for name in self.guider.passes}
        shares = torch.linspace(0, 1, self.finer + 1, device=start_B.device)
        x = examples.at(start_B)
        for t_B, next_B in itertools.pairwise(start_B + share * (stop_B - start_B) for share in shares):
            velocity = self.guider({n: examples.velocity(self.teacher, x, t_B, c) for n, c in contexts.items()})
            x = x - (t_B - next_B)[:, None, None, None, None] * velocity
            x = torch.where(examples.motion, examples.at(next_B), x)
        return x

    def context(self, batch: Batch, name: str) -> Context:
        """What the teacher is told in one of the passes of its guidance."""
        told = PASSES[name]
        text = batch["text"] if told.prompt else self.negative.expand_as(batch["text"])
        return context_of(self.teacher, batch, text, told.speech)


def train(runs: Path, data: Path, file: Path, steps: int, batch: int, seed: int) -> None:
    """Train, or go on, until `steps`; write the LoRA."""
    torch.manual_seed(seed)
    teacher = filled(MultiTalkTransformer(CONFIG.transformer), load_average(runs / "transformer"))
    student = student_of(teacher.to(DEVICE))
    run = TrainingRun(runs / "distilled", student, Muon(student, apart=lambda _: True, other_peak=2e-3), decay=0.99)
    shards = Shards(data)
    shards.refresh()
    loss_of = Distillation(teacher, student, embed_prompt(load_encoders(runs), CONFIG.negative_prompt))
    while run.step < steps:
        rng = np.random.default_rng((seed, run.step))
        examples = shards.draw(rng, batch, SHORT if rng.random() < 0.5 else CONFIG.frame_num)
        loss, figures = loss_of(examples, rng, step_generator(seed, run.step))
        norm = descend(loss, run, schedule(run.step, steps, warm_up=20))
        run.log({"loss": loss.item(), **figures, "gradient": norm}, every=20)
    run.save()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(lora_of(run.average.state), file)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.distil", description=__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(options.runs, options.data, options.file, options.steps, options.batch, options.seed)


if __name__ == "__main__":
    main()
