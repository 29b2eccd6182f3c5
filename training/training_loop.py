"""Training runs: resumable state, log, curves, learning-rate schedule and averaged weights."""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Device of the networks; clips are rendered on the CPU."""


class ExponentialMovingAverage:
    """Exponential moving average of a module's parameters and buffers, from which the final weights are taken."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.steps = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Average in the current weights, with a lower decay in early steps to forget the initial weights."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)


class TrainingRun:
    """One training run in a folder with `state.pt`, from which it resumes, `log.jsonl` and `curves.png`.

    A `state.pt` without steps holds initial weights (`training.unpack`). On resuming, the optimizer's groups keep their
    own peak learning rates instead of those in `state.pt`.
    """

    def __init__(self, folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, decay: float = 0.999) -> None:
        import matplotlib.figure  # noqa: F401 - `save` needs it: its absence is an error now, not after hours

        self.folder = folder
        self.module, self.optimizer = module, optimizer
        self.average = ExponentialMovingAverage(module, decay)
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            self._resume()
        logger.info("training on %s from step %d; %s has state, log and curves", DEVICE, self.step, folder)
        self._first_step = self.step + 1
        self._started = time.perf_counter() - self.seconds
        self._sums: dict[str, list[float]] = {}

    def train(
        self,
        steps: int,
        loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
        lr_factor: Callable[[int], float],
        *,
        log_every: int = 50,
        save_every: int = 250,
    ) -> None:
        """Train until `steps`, and save. `loss_of` returns the loss of a step, and values to log."""
        saved = self.step
        try:
            while self.step < steps:
                loss, metrics = loss_of(self.step)
                norm = optimizer_step(loss, self, lr_factor(self.step))
                self.log({"loss": loss.item(), **metrics, "gradient": norm}, every=log_every)
                if self.step % save_every == 0:
                    self.save()
                    saved = self.step
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted at step {self.step}; {self.folder} has step {saved}") from None
        self.save()

    def log(self, values: dict[str, float], every: int = 50) -> None:
        """Count a step; after the first one and after `every` steps write the mean values to the log."""
        self.step += 1
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)
        if self.step % every and self.step != self._first_step:
            return
        self.seconds = time.perf_counter() - self._started
        means = {name: sum(numbers) / len(numbers) for name, numbers in self._sums.items()}
        self._sums = {}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, "seconds": round(self.seconds), **means}) + "\n")
        logger.info("%6d %6.0f s  %s", self.step, self.seconds, "  ".join(f"{k} {v:.4f}" for k, v in means.items()))

    def save(self) -> None:
        """Write the state atomically, and plot the curves."""
        state = {
            "module": self.module.state_dict(),
            "optimiser": self.optimizer.state_dict(),
            "average": self.average.state,
            "step": self.step,
            "seconds": time.perf_counter() - self._started,
        }
        torch.save(state, self.folder / "state.partial")
        (self.folder / "state.partial").replace(self.folder / "state.pt")
        plot_curves(self.folder)

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self.folder / "state.pt", weights_only=True, map_location=DEVICE)
        peaks = [group["peak"] for group in self.optimizer.param_groups]
        try:
            self.module.load_state_dict(state["module"])
        except RuntimeError as error:
            raise OSError(f"{self.folder}/state.pt is of another network; name another folder") from error
        self.average.state = state["average"]
        if "step" not in state:
            logger.info("starts from the weights in %s", self.folder)
            return
        self.optimizer.load_state_dict(state["optimiser"])
        for group, peak in zip(self.optimizer.param_groups, peaks, strict=True):
            group["peak"] = peak
        self.average.steps = self.step = state["step"]
        self.seconds = state["seconds"]
        logger.info("resumed at step %d", self.step)


def save_initial_weights(folder: Path, state: dict[str, Tensor]) -> None:
    """Write a `state.pt` from which a run starts at step 0. Raises FileExistsError if the folder has one."""
    if (folder / "state.pt").exists():
        raise FileExistsError(f"{folder} already has a training state")
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    torch.save({"module": state, "average": state}, folder / "state.pt")


def load_ema_weights(run: Path, prefix: str = "") -> dict[str, Tensor]:
    """The averaged weights of a run whose names start with `prefix`, without it."""
    if not (run / "state.pt").is_file():
        raise FileNotFoundError(f"{run} has no state.pt: train it first, in the order of docs/built-in-model.md")
    state = torch.load(run / "state.pt", weights_only=True, map_location="cpu")["average"]
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator on `DEVICE` for one step, so that a resumed run equals an uninterrupted one."""
    return torch.Generator(DEVICE).manual_seed(seed * 1_000_003 + step)


def lr_schedule(step: int, steps: int, warm_up: int = 100) -> float:
    """Factor of the peak learning rate: linear warm-up, then cosine decay to 2 %."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def optimizer_step(loss: Tensor, run: TrainingRun, lr_factor: float, clip: float = 1.0) -> float:
    """Back-propagate, clip gradients, step with `lr_factor` times the peak rates, and update the average.

    Returns the gradient norm before clipping.
    """
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(run.module.parameters(), clip)
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"] * lr_factor
    run.optimizer.step()
    run.average.update(run.module)
    return float(norm)


def plot_curves(folder: Path) -> None:
    """Plot the values of `log.jsonl` over steps, one panel each."""
    from matplotlib.figure import Figure  # optional: only training needs it

    path = folder / "log.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    names = [name for name in (lines[-1] if lines else {}) if name not in ("step", "seconds")]
    if not names:
        return
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axis.plot(*zip(*points, strict=True), linewidth=0.8)
        axis.set(title=name, xlabel="step", yscale="log" if min(y for _, y in points) > 0 else "linear")
    figure.savefig(folder / "curves.png", dpi=80)
