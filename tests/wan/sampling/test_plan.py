"""Plans of the denoising steps."""

from wan.sampling.plan import Step, fraction_done, keeps_residual, plan_steps

PASSES = ("cond", "no_text", "neither")


def plan_string(plan: tuple[Step, ...]) -> str:
    """One letter per step: A all passes, C conditional pass only; lowercase if skipped."""
    letters = {(PASSES, True): "A", (PASSES, False): "a", (("cond",), True): "C", (("cond",), False): "c"}
    return "".join(letters[step.passes, step.computed] for step in plan)


def test_without_reuse_each_step_has_all_passes() -> None:
    assert plan_string(plan_steps(PASSES, (True, True, False, True), reuse_guidance=False)) == "AAaA"


def test_reuse_alternates_in_the_second_half() -> None:
    assert plan_string(plan_steps(PASSES, (True,) * 8, reuse_guidance=True)) == "AAAACACA"
    assert plan_string(plan_steps(PASSES, (True,) * 5, reuse_guidance=True)) == "AAACA"
    assert plan_string(plan_steps(PASSES, (True,), reuse_guidance=True)) == "A"


def test_skipped_steps_have_the_passes_of_the_last_computed_step() -> None:
    computed = (True, True, False, False, False, True, False, True, False, True)
    assert plan_string(plan_steps(PASSES, computed, reuse_guidance=True)) == "AAaaaCcAaC"


def test_residuals_are_kept_only_for_a_skipped_next_step() -> None:
    plan = plan_steps(PASSES, (True, False, False, True, True), reuse_guidance=False)
    assert [keeps_residual(plan, step) for step in range(len(plan))] == [True, True, False, False, False]


def test_fraction_done_counts_evaluations() -> None:
    plan = plan_steps(PASSES, (True, False, True, True), reuse_guidance=True)
    assert plan_string(plan) == "AaCA"
    assert [fraction_done(plan, steps) for steps in range(1, 5)] == [3 / 7, 3 / 7, 4 / 7, 1.0]
