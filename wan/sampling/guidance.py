"""Guidance as a table over named passes: classifier-free (Ho & Salimans 2022) and adaptive projected (APG)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one evaluation of the network is given; without speech it hears one silent person."""

    prompt: bool
    speech: bool


PASSES = {
    "cond": Pass(prompt=True, speech=True),
    "no_text": Pass(prompt=False, speech=True),
    "no_audio": Pass(prompt=True, speech=False),
    "neither": Pass(prompt=False, speech=False),
}

GuidanceTerm = tuple[float, str, str]
"""A weight and the two passes whose difference it weighs."""


class Guider(Protocol):
    """Which passes a full step needs, and how the predictions of a step become one."""

    passes: tuple[str, ...]

    def __call__(self, predictions: Mapping[str, Tensor]) -> Tensor: ...


def guidance_terms(text_scale: float, audio_scale: float) -> tuple[GuidanceTerm, ...]:
    """Of three passes; a scale of 1 needs no difference, and one pass less: with 1 and 1 there is the first only."""
    if text_scale == 1:
        table: tuple[GuidanceTerm, ...] = ((audio_scale, "cond", "no_audio"),)
    else:
        table = ((text_scale, "cond", "no_text"), (audio_scale, "no_text", "neither"))
    return table[:-1] if audio_scale == 1 else table


class ClassifierFreeGuidance:
    """The last pass plus every weighted difference.

    With equal scales the pass in the middle has the weight 0, and is left out.
    """

    def __init__(self, text_scale: float, audio_scale: float) -> None:
        self.differences = guidance_terms(text_scale, audio_scale)
        if text_scale == audio_scale != 1:
            self.differences = ((audio_scale, "cond", "neither"),)
        self.passes = passes_of(self.differences)

    def __call__(self, predictions: Mapping[str, Tensor]) -> Tensor:
        guided = predictions[self.passes[-1]]
        for scale, more, less in self.differences:
            guided = guided + scale * (predictions[more] - predictions[less])
        return guided


class AdaptiveProjectedGuidance:
    """The conditional pass plus each difference, less one, after momentum, clipping and projection.

    Sadat et al. 2024, with the parallel component removed (eta = 0). Holds the running averages of the
    differences: make a new one for every chunk.
    """

    def __init__(self, text_scale: float, audio_scale: float, momentum: float, norm_threshold: float) -> None:
        self.differences = guidance_terms(text_scale, audio_scale)
        self.passes = passes_of(self.differences)
        self.projections = [MomentumProjection(momentum, norm_threshold) for _ in self.differences]

    def __call__(self, predictions: Mapping[str, Tensor]) -> Tensor:
        cond = predictions["cond"]
        guided = cond
        for (scale, more, less), project in zip(self.differences, self.projections, strict=True):
            guided = guided + (scale - 1) * project(predictions[more] - predictions[less], cond)
        return guided


class CachedGuidance:
    """What another guider adds to the conditional pass, and again in the steps that bring that pass alone.

    The differences between passes change little from step to step (Lv et al. 2024, FasterCache, section 3.3). Holds the
    last one: make a new one for every chunk.
    """

    def __init__(self, guider: Guider) -> None:
        self.guider = guider
        self.passes = guider.passes
        self.added: Tensor | None = None

    def __call__(self, predictions: Mapping[str, Tensor]) -> Tensor:
        cond = predictions["cond"]
        if len(predictions) == len(self.passes):
            guided = self.guider(predictions)
            self.added = guided - cond
            return guided
        assert self.added is not None, "the first step is a full one"
        return cond + self.added


@dataclass(slots=True)
class MomentumProjection:
    """One difference of APG and its running average, which keeps the unclipped value."""

    momentum: float
    norm_threshold: float
    average: Tensor | None = field(default=None)

    def __call__(self, difference: Tensor, cond: Tensor) -> Tensor:
        """The part of the averaged, clipped difference that is orthogonal to `cond`; norms over whole tensors."""
        if self.average is not None:
            difference = difference + self.momentum * self.average
        self.average = difference
        difference = difference * (self.norm_threshold / torch.linalg.vector_norm(difference)).clamp(max=1)
        direction = torch.nn.functional.normalize(cond.double().flatten(), dim=0)
        parallel = (difference.double().flatten() @ direction) * direction
        return (difference.double() - parallel.view_as(difference)).to(difference.dtype)


def passes_of(table: tuple[GuidanceTerm, ...]) -> tuple[str, ...]:
    """The passes that the differences are of, and the conditional one, which comes first."""
    return tuple(dict.fromkeys(("cond", *(name for _, more, less in table for name in (more, less)))))
