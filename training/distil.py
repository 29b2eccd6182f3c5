"""`python -m training.distil RUNS DATA FILE`: distill a LoRA for few sampling steps without guidance passes.

The student is the transformer with low-rank deltas (Hu et al. 2021) on its blocks' linear layers. One of its steps is
trained to reach the result of several shorter guided steps of the teacher, the transformer itself (progressive
distillation, Salimans & Ho 2022; guidance distillation, Meng et al. 2023). FILE has the keys of LoRAs for Wan.
Shapes: B batch, C latent channels, T latent frames, h x w latent rows and columns.
"""

from collections.abc import Sequence

from src.command_line import Parser, existing_folder, launch, log_messages, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m training.distil", __doc__)
    parser.add_argument("runs", type=existing_folder, metavar="RUNS", help="folder of the training runs")
    parser.add_argument(
        "data", type=existing_folder, nargs="+", metavar="DATA", help="folders of shards, which have equal shares"
    )
    parser.add_output("file", metavar="FILE", help="LoRA to write")
    parser.add_argument("--steps", type=whole_number(), default=300, help="optimizer steps")
    parser.add_argument("--batch", type=whole_number(), default=5, help="chunks of the smallest frame size per batch")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("training.distil", make_parser)

import copy
import itertools
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.components import CONFIG, load_encoders, with_weights
from training.dataset import embed_prompt
from training.examples import Examples, make_context, prepare
from training.muon import Muon
from training.shards import SHORT_FRAMES, Batch, Shards
from training.training_loop import (
    DEVICE,
    TrainingRun,
    load_ema_weights,
    lr_schedule,
    step_generator,
)
from training.transformer import weighted_mean
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.sampling.guidance import PASSES, ClassifierFreeGuidance
from wan.sampling.schedule import NUM_TRAIN_TIMESTEPS, timesteps

_RANK = 16
_PARAMETRIZATION = "parametrizations.weight.0."


class LowRank(nn.Module):
    """A weight plus a low-rank product, which is zero at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out_features, in_features = weight.shape
        self.down = nn.Parameter(torch.randn(rank, in_features, device=weight.device) / in_features**0.5)
        self.up = nn.Parameter(torch.zeros(out_features, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its delta."""
        return weight + self.up @ self.down


def make_student(teacher: MultiTalkTransformer, rank: int = _RANK) -> MultiTalkTransformer:
    """A copy in which only low-rank deltas of the blocks' linear layers are trainable."""
    student = copy.deepcopy(teacher).requires_grad_(False)
    for layer in list(student.blocks.modules()):
        if isinstance(layer, nn.Linear):
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))
    return student


def lora_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a LoRA file from a student's state dict, bfloat16 and contiguous."""
    return {
        "diffusion_model." + name.replace(_PARAMETRIZATION, "lora_") + ".weight": value.to(torch.bfloat16).contiguous()
        for name, value in state.items()
        if _PARAMETRIZATION in name
    }


def student_state_dict(lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `lora_state_dict`, in float32."""
    return {
        name.removeprefix("diffusion_model.").replace("lora_", _PARAMETRIZATION).removesuffix(".weight"): value.float()
        for name, value in lora.items()
    }


class Distillation:
    """The loss of a batch, and values to log.

    The student has the time steps of the preset `fast`; the teacher takes `steps_per_step` steps for each, with the
    guidance scales of `quality`, or with `guidance` (text and speech). The teacher sees the true motion frames, and the
    student those that a chunk really starts from, so that it learns not to pass their errors on.
    """

    def __init__(
        self,
        teacher: MultiTalkTransformer,
        student: MultiTalkTransformer,
        negative_1SC: Tensor,
        steps_per_step: int = 3,
        guidance: tuple[float, float] | None = None,
    ) -> None:
        self.teacher, self.student, self.negative = teacher, student, negative_1SC
        fast, quality = CONFIG.presets["fast"], CONFIG.presets["quality"]
        self.times = (timesteps(fast.sampling_steps, fast.shift["480"]) / NUM_TRAIN_TIMESTEPS).to(DEVICE)
        self.steps_per_step = steps_per_step
        self.guider = ClassifierFreeGuidance(*(guidance or (quality.text_guide_scale, quality.audio_guide_scale)))

    def __call__(
        self, batch: Batch, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """`rng` samples the step of each clip; `generator`, on the batch's device, noise and corruption."""
        examples = prepare(batch, generator)
        steps_B = torch.from_numpy(rng.integers(len(self.times) - 1, size=len(batch["video"]))).to(DEVICE)
        start_B, stop_B = self.times[steps_B], self.times[steps_B + 1]
        state = examples.noised_at(start_B)
        with torch.no_grad():
            end_state = self.teacher_steps(batch, examples.with_true_history(), start_B, stop_B)
            target = (state - end_state) / (start_B - stop_B)[:, None, None, None, None]
        context = make_context(self.student, batch, batch["text"], with_speech=True)
        error = (examples.predict_velocity(self.student, state, start_B, context) - target).square()
        loss = weighted_mean(error, batch["mouths"], ~examples.motion)
        return loss, {"plain": (error * ~examples.motion).mean().item()}

    def teacher_steps(self, batch: Batch, examples: Examples, start_B: Tensor, stop_B: Tensor) -> Tensor:
        """State at `stop_B` after guided steps of the teacher from `start_B`."""
        contexts = {name: self.context(batch, name) for name in self.guider.passes}
        fractions = torch.linspace(0, 1, self.steps_per_step + 1, device=start_B.device)
        x = examples.noised_at(start_B)
        for t_B, next_B in itertools.pairwise(start_B + fraction * (stop_B - start_B) for fraction in fractions):
            velocity = self.guider({n: examples.predict_velocity(self.teacher, x, t_B, c) for n, c in contexts.items()})
            x = x - (t_B - next_B)[:, None, None, None, None] * velocity
            x = torch.where(examples.motion, examples.noised_at(next_B), x)
        return x

    def context(self, batch: Batch, name: str) -> Context:
        """Conditioning of the teacher in one guidance pass."""
        guidance_pass = PASSES[name]
        text = batch["text"] if guidance_pass.prompt else self.negative.expand_as(batch["text"])
        return make_context(self.teacher, batch, text, guidance_pass.speech)


def train(runs: Path, data: Sequence[Path], file: Path, steps: int, batch: int, seed: int) -> None:
    """Train or resume until `steps`, then write the LoRA."""
    torch.manual_seed(seed)
    teacher = with_weights(MultiTalkTransformer(CONFIG.transformer), load_ema_weights(runs / "transformer"))
    student = make_student(teacher.to(DEVICE))
    run = TrainingRun(runs / "distilled", student, Muon(student, use_adam=lambda _: True, adam_lr=2e-3), decay=0.99)
    shards = Shards(data)
    shards.refresh()
    distillation = Distillation(teacher, student, embed_prompt(load_encoders(runs), CONFIG.negative_prompt))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, step))
        examples = shards.sample(rng, batch, SHORT_FRAMES if rng.random() < 0.5 else CONFIG.frame_num)
        return distillation(examples, rng, step_generator(seed, step))

    run.train(steps, loss_of, lambda step: lr_schedule(step, steps, warm_up=20), log_every=20)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(lora_state_dict(run.average.state), file)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = make_parser().parse_args(argv)
    log_messages()
    train(options.runs, options.data, options.file, options.steps, options.batch, options.seed)
