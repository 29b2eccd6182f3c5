"""The distillation: a student that begins as its teacher, learns, and is a LoRA that the loading code merges."""

import numpy as np
import torch

from tests.training.test_networks import random_batch
from training.distil import Distillation, lora_of, student_of
from training.examples import context_of, prepare
from training.muon import Muon
from training.random_weights import random_networks
from training.shards import cut
from training.training_loop import step_generator
from wan.checkpoint.lora import Lora, LoraManager
from wan.configs import ModelConfig


def test_a_student_begins_as_its_teacher_and_ends_as_a_lora(puppet: ModelConfig) -> None:
    teacher = random_networks(puppet, seed=0).transformer
    student, batch = student_of(teacher), cut(random_batch(2), 9)
    examples, times = prepare(batch, step_generator(0, 0)), torch.tensor([0.9, 0.4])

    def predicted(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            context = context_of(model, batch, batch["text"], hears=True)  # type: ignore[arg-type]
            return examples.velocity(model, examples.at(times), times, context)  # type: ignore[arg-type]

    torch.testing.assert_close(predicted(student), predicted(teacher))
    optimizer = Muon(student, apart=lambda _: True, other_peak=5e-3)
    loss_of, losses = Distillation(teacher, student, torch.zeros(1, 128, 64)), []
    for _ in range(8):
        loss, _ = loss_of(batch, np.random.default_rng(1), step_generator(0, 1))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"]
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]

    before, changed = predicted(teacher), predicted(student)
    assert (changed - before).abs().max() > 1e-3
    LoraManager().set_active(teacher, [Lora(weights=lora_of(student.state_dict()))])
    assert (predicted(teacher) - changed).norm() < 0.05 * (changed - before).norm()


def test_the_teacher_arrives_where_a_constant_velocity_leads(puppet: ModelConfig) -> None:
    model, batch = random_networks(puppet, seed=0).transformer, cut(random_batch(3), 9)
    batch["known"][1:] = torch.tensor([9, 1])
    distillation = Distillation(model, model, torch.zeros(1, 128, 64), guidance=(1.0, 1.0))
    examples = prepare(batch, step_generator(0, 0))
    ideal = type(examples)
    start, stop = torch.tensor([1.0, 0.8, 0.5]), torch.tensor([0.8, 0.5, 0.0])
    velocity = ideal.velocity
    ideal.velocity = lambda self, *_: self.noise - self.known  # type: ignore[method-assign]
    try:
        arrived = distillation.follow(batch, examples, start, stop)
    finally:
        ideal.velocity = velocity  # type: ignore[method-assign]
    torch.testing.assert_close(arrived, examples.at(stop), rtol=1e-4, atol=1e-4)
