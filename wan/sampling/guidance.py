"""Guidance as a table over named passes: classifier-free (Ho & Salimans 2022) and adaptive projected (APG).

Predictions are the velocities of the passes, by name, each C x T x H x W in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Inputs of one evaluation of the network: prompt or negative prompt; speech or the silence of one person."""

    prompt: bool
    speech: bool


PASSES = {
    "cond": Pass(prompt=True, speech=True),
    "no_text": Pass(prompt=False, speech=True),
    "no_audio": Pass(prompt=True, speech=False),
    "neither": Pass(prompt=False, speech=False),
}


class GuidanceTerm(NamedTuple):
    """scale * (positive - negative), the weighted difference of two passes."""

    scale: float
    positive: str
    negative: str


class Guider(Protocol):
    """`passes` are the passes of a full step; the call combines their predictions into one."""

    passes: tuple[str, ...]

    def __call__(self, predictions: Mapping[str, Tensor]) -> Tensor: ...


def guidance_terms(text_scale: float, audio_scale: float) -> tuple[GuidanceTerm, ...]:
    """The guidance table. A scale of 1 has no term, which saves a pass; with two scales of 1 the table is empty."""
    if text_scale == 1:
        terms: tuple[GuidanceTerm, ...] = (GuidanceTerm(audio_scale, "cond", "no_audio"),)
    else:
        terms = (GuidanceTerm(text_scale, "cond", "no_text"), GuidanceTerm(audio_scale, "no_text", "neither"))
    return terms[:-1] if audio_scale == 1 else terms


class ClassifierFreeGuidance:
    """The last pass plus all guidance terms.

    With equal scales the middle pass has weight 0 and is skipped.
    """

    def __init__(self, text_scale: float, audio_scale: float) -> None:
        self.terms = guidance_terms(text_scale, audio_scale)
        if text_scale == audio_scale != 1:
            self.terms = (GuidanceTerm(audio_scale, "cond", "neither"),)
        self.passes = required_passes(self.terms)

    def __call__(self, predictions: Mapping[str, Tensor]) -> Tensor:
        guided = predictions[self.passes[-1]]
        for scale, positive, negative in self.terms:
            guided = guided + scale * (predictions[positive] - predictions[negative])
        return guided


class AdaptiveProjectedGuidance:
    """The conditional pass plus (scale - 1) times each difference after momentum, norm clipping and projection.

    APG (Sadat et al. 2024) with eta = 0, which removes the component parallel to the conditional pass. Stateful
    (running averages): create a new one for each chunk.
    """

    def __init__(self, text_scale: float, audio_scale: float, momentum: float, norm_threshold: float) -> None:
        self.terms = guidance_terms(text_scale, audio_scale)
        self.passes = required_passes(self.terms)
        self.projections = [MomentumProjection(momentum, norm_threshold) for _ in self.terms]

    def __call__(self, predictions: Mapping[str, Tensor]) -> Tensor:
        cond = predictions["cond"]
        guided = cond
        for (scale, positive, negative), project in zip(self.terms, self.projections, strict=True):
            guided = guided + (scale - 1) * project(predictions[positive] - predictions[negative], cond)
        return guided


class CachedGuidance:
    """Reuses the guidance of the last full step in steps that run the conditional pass alone.

    The guidance is what the wrapped guider adds to the conditional pass; it changes little between steps (FasterCache,
    Lv et al. 2024, section 3.3). Stateful: create a new one for each chunk.
    """

    def __init__(self, guider: Guider) -> None:
        self.guider = guider
        self.passes = guider.passes
        self.guidance: Tensor | None = None

    def __call__(self, predictions: Mapping[str, Tensor]) -> Tensor:
        cond = predictions["cond"]
        if len(predictions) == len(self.passes):
            guided = self.guider(predictions)
            self.guidance = guided - cond
            return guided
        assert self.guidance is not None, "the first step is a full one"
        return cond + self.guidance


@dataclass(slots=True)
class MomentumProjection:
    """Momentum, clipping and projection of one APG difference; the running average is of unclipped values."""

    momentum: float
    norm_threshold: float
    running_average: Tensor | None = field(default=None)

    def __call__(self, difference: Tensor, cond: Tensor) -> Tensor:
        """The component of the averaged, clipped difference orthogonal to `cond`. Norms are over whole tensors."""
        if self.running_average is not None:
            difference = difference + self.momentum * self.running_average
        self.running_average = difference
        difference = difference * (self.norm_threshold / torch.linalg.vector_norm(difference)).clamp(max=1)
        direction = torch.nn.functional.normalize(cond.double().flatten(), dim=0)
        parallel = (difference.double().flatten() @ direction) * direction
        return (difference.double() - parallel.view_as(difference)).to(difference.dtype)


def required_passes(terms: tuple[GuidanceTerm, ...]) -> tuple[str, ...]:
    """The conditional pass, which comes first, and the other passes of the terms."""
    return tuple(dict.fromkeys(("cond", *(name for term in terms for name in (term.positive, term.negative)))))
