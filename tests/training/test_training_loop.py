"""One training loop for all commands: resumed, logged from the first step, interrupted."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.muon import Muon
from training.training_loop import TrainingRun, load_ema_weights, lr_schedule


def train_regression(folder: Path, steps: int, interrupted_at: int | None = None) -> nn.Module:
    """Train a regression until `steps`, resuming from the state in the folder."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    run = TrainingRun(folder, model, Muon(model, use_adam=lambda name: name.startswith("2.")))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == interrupted_at:
            raise KeyboardInterrupt
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(step))
        return (model(x) - x.prod(1, keepdim=True)).square().mean(), {"scale": 1.0}

    run.train(steps, loss_of, lambda step: lr_schedule(step, 60, warm_up=5), log_every=10, save_every=10)
    return model


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    uninterrupted = train_regression(tmp_path / "uninterrupted", 40)
    train_regression(tmp_path / "resumed", 17)
    resumed = train_regression(tmp_path / "resumed", 40)
    for first, second in zip(uninterrupted.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert (tmp_path / "resumed" / "curves.png").stat().st_size > 1000


def test_the_first_step_is_logged_and_then_every_tenth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "training")
    train_regression(tmp_path, 20)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 10, 20]
    assert caplog.messages[0] == f"training on cpu from step 0; {tmp_path} has state, log and curves"
    train_regression(tmp_path, 20)
    assert "resumed at step 20" in caplog.messages


def test_an_interrupt_says_which_step_is_saved(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=f"interrupted at step 14; {tmp_path} has step 10"):
        train_regression(tmp_path, 20, interrupted_at=14)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 10


def test_states_that_are_missing_or_of_another_network_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"vae has no state\.pt: train it first"):
        load_ema_weights(tmp_path / "vae")
    train_regression(tmp_path, 1)
    other = nn.Linear(3, 3)
    with pytest.raises(OSError, match=r"state\.pt is of another network"):
        TrainingRun(tmp_path, other, Muon(other, use_adam=lambda _: True))


def test_resumed_run_uses_new_learning_rates(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    for peak in (0.02, 0.005):
        run = TrainingRun(tmp_path, model, Muon(model, use_adam=lambda _: False, muon_lr=peak))
        assert run.optimizer.param_groups[0]["peak"] == peak
        run.save()
