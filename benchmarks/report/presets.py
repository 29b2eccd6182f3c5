"""Table of docs/presets.md: evaluations of the transformer blocks per chunk, counted from the step plans."""

from typing import Any

import torch

from benchmarks.report.defaults import WEIGHTS
from benchmarks.report.tables import markdown_table
from wan import MultiTalkPipeline
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules.transformer import TimeEmbedding
from wan.sampling.options import SamplingOptions, resolve_options
from wan.sampling.plan import plan_chunk

COLUMNS: dict[str, dict[str, Any]] = {
    "unchanged": {},
    "cache=none": {"cache": "none"},
    "cache=magcache": {"cache": "magcache"},
    "guidance_reuse": {"guidance_reuse": True},
    "magcache and guidance_reuse": {"cache": "magcache", "guidance_reuse": True},
}
"""Changes of a preset, by column of the table."""
_NO_EMBEDDING = TimeEmbedding(torch.zeros(1), torch.zeros(1))
"""Placeholder for plans that do not depend on the time embeddings."""


def render_table() -> str:
    """Markdown table with a row for every model and preset, at 480p."""
    built_in = MultiTalkPipeline(WAN_CONFIGS["multitalk-puppet"], WEIGHTS)
    without_weights = MultiTalkPipeline.__new__(MultiTalkPipeline)
    without_weights.config = WAN_CONFIGS["multitalk-14B"]
    rows = []
    for pipeline in (built_in, without_weights):
        for preset in ("turbo", *pipeline.config.presets):
            options = preset_options(pipeline.config, preset)
            cells = (pipeline.config.name, preset, str(options.sampling_steps), str(len(options.guider().passes)))
            rows.append((*cells, *(count_evaluations(pipeline, preset, changes) for changes in COLUMNS.values())))
    return markdown_table(("model", "preset", "steps", "passes", *COLUMNS), rows)


def preset_options(config: ModelConfig, preset: str, **changes: Any) -> SamplingOptions:
    """Sampling options of a preset at 480p."""
    name = None if preset == "turbo" else preset
    return resolve_options(config, size_class="480", turbo=True, preset_name=name, seed=0, **changes)


def count_evaluations(pipeline: MultiTalkPipeline, preset: str, changes: dict[str, Any]) -> str:
    """Evaluations of the blocks per chunk; empty for invalid options, and where the count needs missing weights."""
    try:
        options = preset_options(pipeline.config, preset, **changes)
    except ValueError:
        return ""
    has_weights = hasattr(pipeline, "models")
    if options.teacache_thresh > 0 and not has_weights:
        return ""
    embeddings = pipeline.sampler.embed_times(options) if has_weights else [_NO_EMBEDDING] * options.sampling_steps
    steps = plan_chunk(pipeline.config, options, [embedding.timestep_proj for embedding in embeddings])
    return str(sum(step.evaluations for step in steps))
