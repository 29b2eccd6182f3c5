"""Ablation of a denoising step from the eager baseline to the optimized transformer, at the first main size."""

from dataclasses import replace
from typing import Any

from benchmarks.gpu.bench import Bench, format_size
from benchmarks.gpu.networks import random_transformer
from benchmarks.speed import ablation
from benchmarks.speed.roofline import min_seconds, step_work, total_work
from benchmarks.speed.timing import measure_interleaved
from wan.sampling.guidance import PASSES

PERSONS = 2


def measure_against_eager(bench: Bench) -> dict[str, Any]:
    """Seconds of every variant beside the roofline of the required passes, guidance of the preset `quality`."""
    model, size = random_transformer(bench.config, bench.device), bench.main_sizes[0]
    quality = bench.config.presets["quality"]
    scales = (quality.text_guide_scale, quality.audio_guide_scale)
    steps = ablation.ablation_steps(model, ablation.draw_inputs(model.config, size, PERSONS, bench.device), scales)
    reference = steps[ablation.EAGER]()
    times = measure_interleaved(steps, bench.device, bench.repeats)
    passes = ablation.make_guider(*scales, eager=False).passes
    works = [step_work(model.config, size, PERSONS if PASSES[name].speech else 1) for name in passes]
    roofline_s = min_seconds(replace(total_work(works), bytes=0.0), bench.peak)
    rows = [
        {
            "variant": name,
            **times[name].with_roofline(roofline_s),
            "relative_error": ablation.relative_error(step(), reference),
        }
        for name, step in steps.items()
    ]
    ratio = times[ablation.EAGER].median_s / times[ablation.OPTIMIZED].median_s
    return {"size": format_size(size), "passes": passes, "rows": rows, "plain_over_ours": ratio}
