"""Distillation: initial student, training, and the LoRA merged by the loading code."""

from functools import partial

import torch

from tests.training.overfit import overfit
from tests.training.test_networks import random_batch
from training.distil import Distillation, lora_state_dict, make_student
from training.examples import make_context, prepare
from training.muon import Muon
from training.random_weights import random_networks
from training.shards import truncate_frames
from training.training_loop import step_generator
from wan.checkpoint.lora import Lora, LoraManager
from wan.configs import ModelConfig


def test_student_starts_as_the_teacher_and_exports_as_lora(puppet: ModelConfig) -> None:
    teacher = random_networks(puppet, seed=0).transformer
    student, batch = make_student(teacher), truncate_frames(random_batch(2), 9)
    examples, times = prepare(batch, step_generator(0, 0)), torch.tensor([0.9, 0.4])

    def predict(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            context = make_context(model, batch, batch["text"], with_speech=True)  # type: ignore[arg-type]
            return examples.predict_velocity(model, examples.noised_at(times), times, context)  # type: ignore[arg-type]

    torch.testing.assert_close(predict(student), predict(teacher))
    optimizer = Muon(student, use_adam=lambda _: True, adam_lr=5e-3)
    losses, _ = overfit(optimizer, partial(Distillation(teacher, student, torch.zeros(1, 128, 64)), batch))
    assert losses[-1] < 0.9 * losses[0]

    before, distilled = predict(teacher), predict(student)
    assert (distilled - before).abs().max() > 1e-3
    LoraManager().set_active(teacher, [Lora(weights=lora_state_dict(student.state_dict()))])
    assert (predict(teacher) - distilled).norm() < 0.05 * (distilled - before).norm()


def test_teacher_steps_follow_a_constant_velocity(puppet: ModelConfig) -> None:
    model, batch = random_networks(puppet, seed=0).transformer, truncate_frames(random_batch(3), 9)
    batch["known"][1:] = torch.tensor([9, 1])
    distillation = Distillation(model, model, torch.zeros(1, 128, 64), guidance=(1.0, 1.0))
    examples = prepare(batch, step_generator(0, 0))
    cls = type(examples)
    start, stop = torch.tensor([1.0, 0.8, 0.5]), torch.tensor([0.8, 0.5, 0.0])
    predict_velocity = cls.predict_velocity
    cls.predict_velocity = lambda self, *_: self.noise - self.corrupted  # type: ignore[method-assign]
    try:
        end_state = distillation.teacher_steps(batch, examples, start, stop)
    finally:
        cls.predict_velocity = predict_velocity  # type: ignore[method-assign]
    torch.testing.assert_close(end_state, examples.noised_at(stop), rtol=1e-4, atol=1e-4)
