"""A denoising step from the plain form to ours, one optimisation at a time, at the first named size."""

from dataclasses import replace
from typing import Any

from benchmarks.gpu.bench import Bench, label
from benchmarks.gpu.networks import draw_transformer
from benchmarks.speed import ablation
from benchmarks.speed.roofline import seconds, step_work, total
from benchmarks.speed.timing import measure_in_turn
from wan.sampling.guidance import PASSES

PERSONS = 2


def measure_against_plain(bench: Bench) -> dict[str, Any]:
    """Seconds of every rung, beside the floor of the passes that are needed, as in the preset `quality`."""
    model, size = draw_transformer(bench.config, bench.device), bench.named[0]
    quality = bench.config.presets["quality"]
    scales = (quality.text_guide_scale, quality.audio_guide_scale)
    rungs = ablation.rungs(model, ablation.draw_clip(model.config, size, PERSONS, bench.device), scales)
    plain = next(iter(rungs.values()))()
    found = measure_in_turn(rungs, bench.device, bench.repeats)
    passes = ablation.guider_of(*scales, plain=False).passes
    work = [step_work(model.config, size, PERSONS if PASSES[name].speech else 1) for name in passes]
    floor = seconds(replace(total(work), bytes=0.0), bench.ceilings)
    rows = [
        {"what": name, **found[name].over(floor), "difference": ablation.difference(step(), plain)}
        for name, step in rungs.items()
    ]
    ends = [found[name].median_s for name in (next(iter(rungs)), ablation.OURS)]
    return {"size": label(size), "passes": passes, "rows": rows, "plain_over_ours": ends[0] / ends[1]}
