"""Denoising of the latent of one chunk.

Shapes: B = 1 batch, C latent channels, T latent frames, H x W, L tokens, D model width.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from wan.modules.rope import RotaryEmbedding
from wan.modules.transformer import Context, MultiTalkTransformer, TimeEmbedding
from wan.sampling.guidance import Guider
from wan.sampling.mesh import SINGLE_RANK, Mesh
from wan.sampling.plan import Step, keeps_residual
from wan.sampling.schedule import NUM_TRAIN_TIMESTEPS, euler_step

Velocity = Callable[[Tensor, int], Mapping[str, Tensor]]
"""Latent (16 x T x H x W) and step index to the predicted velocity of each pass of the step, all float32."""


class MotionLatents(Protocol):
    """Latent frames that a chunk continues from; they replace the leading frames after each step."""

    def apply(self, x_CTHW: Tensor, t: float) -> Tensor:
        """The latent at time `t` (0..1000) with its leading frames replaced."""
        ...


class NoisedMotion:
    """MultiTalk: motion frames with newly drawn noise at the level of the time step.

    Without motion frames (the first chunk of a scene) the latent is unchanged and no noise is drawn.
    """

    def __init__(self, latent_CTHW: Tensor | None, generator: torch.Generator) -> None:
        self.latent = latent_CTHW
        self.generator = generator

    def apply(self, x_CTHW: Tensor, t: float) -> Tensor:
        """The latent at time `t` (0..1000) with the motion frames, noised to `t`, as its leading frames."""
        if self.latent is None:
            return x_CTHW
        known = add_noise(self.latent, draw_noise(tuple(self.latent.shape), self.generator), t)
        return replace_leading_frames(known, x_CTHW)


class CleanMotion:
    """InfiniteTalk: motion frames without noise at every time step.

    Where a chunk continues another, the reference draws noise and discards it. With `draws_noise` this class does the
    same, so that a seed gives the same video as there.
    """

    def __init__(self, latent_CTHW: Tensor, generator: torch.Generator, *, draws_noise: bool) -> None:
        self.latent = latent_CTHW
        self.generator = generator
        self.draws_noise = draws_noise

    def apply(self, x_CTHW: Tensor, t: float) -> Tensor:
        """The latent with the motion frames as its leading frames, at any time."""
        if self.draws_noise:
            draw_noise(tuple(self.latent.shape), self.generator)
        return replace_leading_frames(self.latent, x_CTHW)


class Denoiser:
    """Predicts the velocities of one chunk. Skipped steps add the last computed residuals to their tokens."""

    def __init__(
        self,
        model: MultiTalkTransformer,
        condition_CTHW: Tensor,
        contexts: Mapping[str, Context],
        time_embeddings: Sequence[TimeEmbedding],
        rotary_emb: RotaryEmbedding,
        grid: tuple[int, int, int],
        plan: Sequence[Step],
        mesh: Mesh = SINGLE_RANK,
    ) -> None:
        self.model = model
        self.condition = condition_CTHW[None]
        self.contexts = contexts
        self.time_embeddings = time_embeddings
        self.grid = grid
        self.plan = plan
        self.mesh = mesh
        self.parallel = mesh.sequence(grid)
        self.rotary_emb = RotaryEmbedding(*map(self.parallel.shard, rotary_emb))
        self.residuals: dict[str, Tensor] = {}

    def __call__(self, x_CTHW: Tensor, step: int) -> dict[str, Tensor]:
        passes, time = self.plan[step].passes, self.time_embeddings[step]
        own = self.mesh.own(passes)
        x_BLD = self.parallel.shard(self.model.patchify(x_CTHW[None], self.condition))
        if self.plan[step].computed and own:
            velocities = self._compute(x_BLD, step, own, time)
        else:
            velocities = {name: self._velocity(x_BLD + self.residuals[name], time) for name in own}
        return self.mesh.gather(velocities, passes, like=x_CTHW)

    def _compute(self, x_BLD: Tensor, step: int, passes: Sequence[str], time: TimeEmbedding) -> dict[str, Tensor]:
        self.residuals.clear()  # frees their memory for the blocks
        contexts = [self.contexts[name] for name in passes]
        results = self.model.forward_passes(x_BLD, time, self.rotary_emb, contexts, self.parallel)
        hidden = dict(zip(passes, results, strict=True))
        del results
        velocities = {name: self._velocity(x, time) for name, x in hidden.items()}
        if keeps_residual(self.plan, step):
            self.residuals = {name: hidden.pop(name) - x_BLD for name in passes}
        return velocities

    def _velocity(self, x_BLD: Tensor, time: TimeEmbedding) -> Tensor:
        return self.model.unpatchify(x_BLD, time, self.grid, self.parallel)[0]


def denoise(
    x_CTHW: Tensor,
    times: Sequence[float],
    velocity: Velocity,
    guider: Guider,
    motion: MotionLatents,
    on_step: Callable[[int], None],
) -> Tensor:
    """Integrate the flow ODE from `times[0]` to `times[-1]` with Euler steps, starting at noise; float32.

    `on_step` is called after each step with the number of steps done.
    """
    x_CTHW = motion.apply(x_CTHW, times[0])
    for step, (t, t_next) in enumerate(itertools.pairwise(times)):
        x_CTHW = motion.apply(euler_step(x_CTHW, guider(velocity(x_CTHW, step)), t, t_next), t_next)
        on_step(step + 1)
    return x_CTHW


def replace_leading_frames(known_CTHW: Tensor, x_CTHW: Tensor) -> Tensor:
    """The latent with the known frames in place of its leading frames."""
    return torch.cat((known_CTHW, x_CTHW[:, known_CTHW.shape[1] :]), dim=1)


def add_noise(latent: Tensor, noise: Tensor, t: float) -> Tensor:
    """Rectified-flow interpolation (1 - sigma) latent + sigma noise at time `t` in 0..1000, sigma = t / 1000."""
    sigma = t / NUM_TRAIN_TIMESTEPS
    return (1 - sigma) * latent + sigma * noise


def draw_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal float32 on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)
