"""Guidance from the predictions of several passes."""

import pytest
import torch

from wan.sampling.guidance import AdaptiveProjectedGuidance, CachedGuidance, ClassifierFreeGuidance, MomentumProjection

PREDICTIONS = {name: torch.randn(16, 2, 4, 4) for name in ("cond", "no_text", "no_audio", "neither")}
EACH_GUIDER = pytest.mark.parametrize(
    "make_guider", [ClassifierFreeGuidance, lambda t, a: AdaptiveProjectedGuidance(t, a, -0.75, 55.0)]
)


def test_two_scales_need_three_passes() -> None:
    guider = ClassifierFreeGuidance(5.0, 4.0)
    assert guider.passes == ("cond", "no_text", "neither")
    cond, no_text, neither = (PREDICTIONS[name] for name in guider.passes)
    torch.testing.assert_close(guider(PREDICTIONS), neither + 5 * (cond - no_text) + 4 * (no_text - neither))


def test_a_text_scale_of_one_needs_two_passes() -> None:
    guider = ClassifierFreeGuidance(1.0, 4.0)
    assert guider.passes == ("cond", "no_audio")
    torch.testing.assert_close(
        guider(PREDICTIONS), PREDICTIONS["no_audio"] + 4 * (PREDICTIONS["cond"] - PREDICTIONS["no_audio"])
    )


def test_equal_scales_need_two_passes() -> None:
    guider = ClassifierFreeGuidance(4.0, 4.0)
    assert guider.passes == ("cond", "neither")
    three = ClassifierFreeGuidance(4.0, 4.0 + 1e-12)
    assert three.passes == ("cond", "no_text", "neither")
    torch.testing.assert_close(guider(PREDICTIONS), three(PREDICTIONS))
    # Projection is not linear, so the two differences cannot be merged.
    assert AdaptiveProjectedGuidance(4.0, 4.0, -0.75, 55.0).passes == three.passes


@EACH_GUIDER
def test_scales_of_one_return_the_conditional_pass(make_guider: type[ClassifierFreeGuidance]) -> None:
    guider = make_guider(1.0, 1.0)
    assert guider.passes == ("cond",)
    torch.testing.assert_close(guider(PREDICTIONS), PREDICTIONS["cond"])


@EACH_GUIDER
def test_an_audio_scale_of_one_needs_two_passes(make_guider: type[ClassifierFreeGuidance]) -> None:
    guider, three = make_guider(5.0, 1.0), make_guider(5.0, 1.0 + 1e-12)
    assert guider.passes == ("cond", "no_text")
    assert three.passes == ("cond", "no_text", "neither")
    torch.testing.assert_close(guider(PREDICTIONS), three(PREDICTIONS))


def test_projected_differences_are_orthogonal_and_clipped() -> None:
    project = MomentumProjection(momentum=-0.75, norm_threshold=3.0)
    for _ in range(3):
        part = project(torch.randn(16, 2, 4, 4), PREDICTIONS["cond"])
        assert abs((part.double() * PREDICTIONS["cond"].double()).sum()) < 1e-4
        assert part.norm() <= 3.0 + 1e-4


def test_guiders_do_not_share_running_averages() -> None:
    first, second = (AdaptiveProjectedGuidance(5.0, 4.0, -0.75, 55.0) for _ in range(2))
    first(PREDICTIONS)
    torch.testing.assert_close(second(PREDICTIONS), AdaptiveProjectedGuidance(5.0, 4.0, -0.75, 55.0)(PREDICTIONS))
    assert not torch.equal(first(PREDICTIONS), second.projections[0].running_average)  # type: ignore[arg-type]


@EACH_GUIDER
def test_cached_guidance_is_reused_until_the_next_full_step(make_guider: type[ClassifierFreeGuidance]) -> None:
    guider = CachedGuidance(make_guider(5.0, 4.0))
    full = {name: PREDICTIONS[name] for name in guider.passes}
    guided = guider(full)
    torch.testing.assert_close(guided, make_guider(5.0, 4.0)(full))
    later = torch.randn(16, 2, 4, 4)
    torch.testing.assert_close(guider({"cond": later}), later + guided - PREDICTIONS["cond"])
    # A full step replaces the cached guidance.
    assert not torch.equal(guider({**full, "neither": later}), guided)
    assert not torch.allclose(guider({"cond": later}), later + guided - PREDICTIONS["cond"])
