"""`python -m benchmarks.report.presets`: write the table of docs/presets.md, evaluations of the blocks by preset.

Counted from the step plans; no network runs.
"""

import re
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.baseline.puppet import WEIGHTS
from benchmarks.report.environment import DOCS
from benchmarks.report.parser import make_parser
from wan import MultiTalkPipeline
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules.transformer import TimeEmbedding
from wan.sampling.options import SamplingOptions, resolve_options

PAGE = "presets.md"
COLUMNS: tuple[dict[str, Any], ...] = (
    {},
    {"cache": "none"},
    {"cache": "magcache"},
    {"guidance_reuse": True},
    {"cache": "magcache", "guidance_reuse": True},
)
"""Changes of a preset, by column of the table."""
_TABLE_BODY = re.compile(r"(?<=\| --- \|\n)(\|.*\n)*")
_NO_EMBEDDING = TimeEmbedding(torch.zeros(1), torch.zeros(1))
"""Placeholder for plans that do not depend on the time embeddings."""


def render_page(text: str) -> str:
    """The text of the page with an updated table."""
    return _TABLE_BODY.sub(lambda _: render_table(), text, count=1)


def render_table() -> str:
    """Table body: a row for every model and preset."""
    built_in = MultiTalkPipeline(WAN_CONFIGS["multitalk-puppet"], WEIGHTS)
    without_weights = MultiTalkPipeline.__new__(MultiTalkPipeline)
    without_weights.config = WAN_CONFIGS["multitalk-14B"]
    lines = []
    for pipeline in (built_in, without_weights):
        for preset in ("turbo", *pipeline.config.presets):
            options = preset_options(pipeline.config, preset)
            cells = (pipeline.config.name, preset, str(options.sampling_steps), str(len(options.guider().passes)))
            lines.append(" | ".join([*cells, *(count_evaluations(pipeline, preset, changes) for changes in COLUMNS)]))
    return "".join(f"| {line} |\n" for line in lines)


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
    embeddings = pipeline.embed_times(options) if has_weights else [_NO_EMBEDDING] * options.sampling_steps
    return str(sum(step.evaluations for step in pipeline.plan(options, embeddings)))


def main() -> int:
    """Run the command."""
    parser = make_parser("benchmarks.report.presets", __doc__)
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="DIR", help="folder of the page")
    path = parser.parse_args().docs / PAGE
    path.write_text(render_page(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
