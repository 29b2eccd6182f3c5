"""The table of presets counts what the plans say. `python -m tests.test_presets` rewrites it."""

import re
from pathlib import Path
from typing import Any

import torch

from wan import MultiTalkPipeline
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules.transformer import TimeEmbedding
from wan.sampling.options import SamplingOptions, resolve_options

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "presets.md"
TABLE = re.compile(r"(?<=\| --- \|\n)(\|.*\n)*")
COLUMNS: tuple[dict[str, Any], ...] = (
    {},
    {"cache": "none"},
    {"cache": "magcache"},
    {"guidance_reuse": True},
    {"cache": "magcache", "guidance_reuse": True},
)


NO_TIME = TimeEmbedding(torch.zeros(1), torch.zeros(1))
"""In place of what a network without weights cannot tell, where no plan asks for it."""


def chosen(config: ModelConfig, preset: str, **changes: Any) -> SamplingOptions:
    name = None if preset == "turbo" else preset
    return resolve_options(config, size_class="480", turbo=True, preset_name=name, seed=0, **changes)


def runs(pipeline: MultiTalkPipeline, preset: str, changes: dict[str, Any]) -> str:
    """Of the stack of blocks in a chunk; empty for a contradiction, and where it takes weights to know."""
    try:
        options = chosen(pipeline.config, preset, **changes)
    except ValueError:
        return ""
    has_weights = hasattr(pipeline, "models")
    if options.teacache_thresh > 0 and not has_weights:
        return ""
    embeddings = pipeline.embed_times(options) if has_weights else [NO_TIME] * options.sampling_steps
    return str(sum(step.evaluations for step in pipeline.plan(options, embeddings)))


def table() -> str:
    built_in = MultiTalkPipeline(WAN_CONFIGS["multitalk-puppet"], ROOT / "models" / "multitalk-puppet")
    large = MultiTalkPipeline.__new__(MultiTalkPipeline)  # its weights are not here
    large.config = WAN_CONFIGS["multitalk-14B"]
    lines = []
    for pipeline in (built_in, large):
        for preset in ("turbo", *pipeline.config.presets):
            plain = chosen(pipeline.config, preset)
            cells = (pipeline.config.name, preset, str(plain.sampling_steps), str(len(plain.guider().passes)))
            lines.append(" | ".join([*cells, *(runs(pipeline, preset, changes) for changes in COLUMNS)]))
    return "".join(f"| {line} |\n" for line in lines)


def test_the_table_is_what_the_plans_say() -> None:
    found = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == table(), "run `python -m tests.test_presets`"


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text(encoding="utf-8"), count=1), encoding="utf-8")
