"""What each step runs."""

from wan.sampling.plan import Step, fraction_done, keeps_residual, plan_steps

PASSES = ("cond", "no_text", "neither")


def drawn(plan: tuple[Step, ...]) -> str:
    """One letter a step: all passes or the conditional one alone, computed (capital) or not."""
    letters = {(PASSES, True): "A", (PASSES, False): "a", (("cond",), True): "C", (("cond",), False): "c"}
    return "".join(letters[step.passes, step.computed] for step in plan)


def test_every_step_has_every_pass() -> None:
    assert drawn(plan_steps(PASSES, (True, True, False, True), reuse_guidance=False)) == "AAaA"


def test_guidance_is_reused_in_every_other_step_of_the_second_half() -> None:
    assert drawn(plan_steps(PASSES, (True,) * 8, reuse_guidance=True)) == "AAAACACA"
    assert drawn(plan_steps(PASSES, (True,) * 5, reuse_guidance=True)) == "AAACA"
    assert drawn(plan_steps(PASSES, (True,), reuse_guidance=True)) == "A"


def test_steps_that_are_left_out_have_the_passes_of_the_step_before() -> None:
    computed = (True, True, False, False, False, True, False, True, False, True)
    assert drawn(plan_steps(PASSES, computed, reuse_guidance=True)) == "AAaaaCcAaC"


def test_residuals_are_wanted_by_the_next_step_only() -> None:
    plan = plan_steps(PASSES, (True, False, False, True, True), reuse_guidance=False)
    assert [keeps_residual(plan, number) for number in range(len(plan))] == [True, True, False, False, False]


def test_shares_are_of_evaluations() -> None:
    plan = plan_steps(PASSES, (True, False, True, True), reuse_guidance=True)
    assert drawn(plan) == "AaCA"
    assert [fraction_done(plan, steps) for steps in range(1, 5)] == [3 / 7, 3 / 7, 4 / 7, 1.0]
