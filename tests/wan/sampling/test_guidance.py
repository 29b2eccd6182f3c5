"""Guidance as a table."""

import pytest
import torch

from wan.sampling.guidance import (
    AdaptiveProjectedGuidance,
    CachedGuidance,
    ClassifierFreeGuidance,
    MomentumProjection,
)

CALLS = {name: torch.randn(16, 2, 4, 4) for name in ("cond", "no_text", "no_audio", "neither")}


def test_three_passes() -> None:
    guider = ClassifierFreeGuidance(5.0, 4.0)
    assert guider.passes == ("cond", "no_text", "neither")
    cond, no_text, neither = (CALLS[name] for name in guider.passes)
    torch.testing.assert_close(guider(CALLS), neither + 5 * (cond - no_text) + 4 * (no_text - neither))


def test_two_passes_when_the_text_scale_is_one() -> None:
    guider = ClassifierFreeGuidance(1.0, 4.0)
    assert guider.passes == ("cond", "no_audio")
    torch.testing.assert_close(guider(CALLS), CALLS["no_audio"] + 4 * (CALLS["cond"] - CALLS["no_audio"]))


def test_two_passes_when_both_scales_are_the_same() -> None:
    guider = ClassifierFreeGuidance(4.0, 4.0)
    assert guider.passes == ("cond", "neither")
    three = ClassifierFreeGuidance(4.0, 4.0 + 1e-12)
    assert three.passes == ("cond", "no_text", "neither")
    torch.testing.assert_close(guider(CALLS), three(CALLS))
    # Projection is not linear: each difference has its own.
    assert AdaptiveProjectedGuidance(4.0, 4.0, -0.75, 55.0).passes == three.passes


@pytest.mark.parametrize("kind", [ClassifierFreeGuidance, lambda t, a: AdaptiveProjectedGuidance(t, a, -0.75, 55.0)])
def test_scales_of_one_give_the_conditional_pass(kind: type[ClassifierFreeGuidance]) -> None:
    guider = kind(1.0, 1.0)
    assert guider.passes == ("cond",)
    torch.testing.assert_close(guider(CALLS), CALLS["cond"])


@pytest.mark.parametrize("kind", [ClassifierFreeGuidance, lambda t, a: AdaptiveProjectedGuidance(t, a, -0.75, 55.0)])
def test_without_guidance_of_speech_two_passes_give_what_three_would(kind: type[ClassifierFreeGuidance]) -> None:
    guider, three = kind(5.0, 1.0), kind(5.0, 1.0 + 1e-12)
    assert guider.passes == ("cond", "no_text")
    assert three.passes == ("cond", "no_text", "neither")
    torch.testing.assert_close(guider(CALLS), three(CALLS))


def test_a_projected_difference_is_orthogonal_and_clipped() -> None:
    project = MomentumProjection(momentum=-0.75, norm_threshold=3.0)
    for _ in range(3):
        part = project(torch.randn(16, 2, 4, 4), CALLS["cond"])
        assert abs((part.double() * CALLS["cond"].double()).sum()) < 1e-4
        assert part.norm() <= 3.0 + 1e-4


def test_chunks_do_not_share_averages() -> None:
    first, second = (AdaptiveProjectedGuidance(5.0, 4.0, -0.75, 55.0) for _ in range(2))
    first(CALLS)
    torch.testing.assert_close(second(CALLS), AdaptiveProjectedGuidance(5.0, 4.0, -0.75, 55.0)(CALLS))
    assert not torch.equal(first(CALLS), second.projections[0].running_average)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [ClassifierFreeGuidance, lambda t, a: AdaptiveProjectedGuidance(t, a, -0.75, 55.0)])
def test_guidance_is_added_again(kind: type[ClassifierFreeGuidance]) -> None:
    guider = CachedGuidance(kind(5.0, 4.0))
    full = {name: CALLS[name] for name in guider.passes}
    guided = guider(full)
    torch.testing.assert_close(guided, kind(5.0, 4.0)(full))
    later = torch.randn(16, 2, 4, 4)
    torch.testing.assert_close(guider({"cond": later}), later + guided - CALLS["cond"])
    # A full step brings new guidance.
    assert not torch.equal(guider({**full, "neither": later}), guided)
    assert not torch.allclose(guider({"cond": later}), later + guided - CALLS["cond"])
