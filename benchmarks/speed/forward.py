"""`python -m benchmarks.speed.forward`: seconds of one forward of the built-in transformer, for one and two persons.

Two persons additionally need speaker labels. Both are measured interleaved in one run, so that their ratio is
meaningful on a noisy machine. Written to benchmarks/results/forward.json.
"""

from collections.abc import Sequence

from benchmarks.report.defaults import RESULTS
from src.command_line import Parser, launch, log_messages, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.speed.forward", __doc__)
    parser.add_argument("--repeats", type=whole_number(), default=10, help="measurements of each forward")
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "forward.json", help="JSON file to write")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.speed.forward", make_parser)

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.report.environment import environment, write_result
from benchmarks.speed.roofline import num_tokens
from benchmarks.speed.timing import measure_interleaved
from wan.configs import WAN_CONFIGS
from wan.configs.schema import TransformerConfig
from wan.modules.rope import video_rope
from wan.modules.speaker_labels import token_masks
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.types import VideoSize

logger = logging.getLogger(__name__)


def forward_call(model: MultiTalkTransformer, size: VideoSize, persons: int) -> Callable[[], Any]:
    """A call of the model's forward on random inputs, with the per-clip constants precomputed."""
    t, h, w = size.latent
    device = model.device
    generator = torch.Generator(device).manual_seed(0)
    context = draw_context(model, size, persons, generator)
    latent, condition = (torch.randn(1, channels, t, h, w, generator=generator, device=device) for channels in (16, 20))
    time_embedding = model.embed_time(torch.tensor([500.0], device=device))
    rope = video_rope(size.grid, model.config.head_dim, device)
    return lambda: model(latent, condition, time_embedding, rope, context)


def draw_context(model: MultiTalkTransformer, size: VideoSize, persons: int, generator: torch.Generator) -> Context:
    """Random text, image and speech; of two persons, the first is on the left and the second on the right."""
    config: TransformerConfig = model.config
    _, h, w = size.latent

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=generator.device)

    masks = torch.zeros(1, 3, h, w, device=generator.device)
    masks[:, 0, :, : w // 3], masks[:, 1, :, -w // 3 :] = 1, 1
    masks[:, 2] = 1 - masks[:, :2].amax(1)
    windows = draw(1, persons, size.frames, config.audio_window, config.audio_layers, config.audio_dim)
    return Context(
        text=model.embed_text(draw(1, 20, config.text_dim)),
        image=model.embed_image(draw(1, config.image_tokens, config.image_dim)),
        speech=model.embed_speech(windows),
        masks=token_masks(masks, *size.grid[1:]) if persons == 2 else None,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = make_parser().parse_args(argv)
    log_messages()
    config = WAN_CONFIGS["multitalk-puppet"]
    height, width = config.buckets["720"]["0.50"]
    size = VideoSize(frames=config.frame_num, height=height, width=width)
    with torch.inference_mode():
        model = MultiTalkTransformer(config.transformer).eval()
        calls = {f"{persons} person(s)": forward_call(model, size, persons) for persons in (1, 2)}
        times = measure_interleaved(calls, torch.device("cpu"), args.repeats)
    document = {
        **environment("benchmarks.speed.forward"),
        "model": config.name,
        "frames": size.frames,
        "tokens": num_tokens(size),
        "forward": {name: asdict(stats) for name, stats in times.items()},
    }
    write_result(args.output, document)
    logger.info("%s", json.dumps(document, indent=2))
