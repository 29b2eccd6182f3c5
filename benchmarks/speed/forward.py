"""`python -m benchmarks.speed.forward`: seconds of one forward of the small model, with one and with two persons.

Two persons cost label maps that one does not; both are measured in one run, so that the ratio means something on a
noisy machine. The result is written as JSON into `benchmarks/results/`.
"""

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.report.environment import RESULTS, environment
from benchmarks.speed.timing import measure_in_turn
from wan.configs import WAN_CONFIGS
from wan.configs.schema import TransformerConfig
from wan.modules.rope import video_rope
from wan.modules.speaker_labels import token_masks
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.types import VideoSize

logger = logging.getLogger(__name__)


def forward_call(model: MultiTalkTransformer, size: VideoSize, persons: int) -> Callable[[], Any]:
    """One forward on random inputs, with everything that is constant in a clip computed beforehand."""
    t, h, w = size.latent
    device = model.device
    generator = torch.Generator(device).manual_seed(0)
    context = context_of(model, size, persons, generator)
    latent, condition = (torch.randn(1, channels, t, h, w, generator=generator, device=device) for channels in (16, 20))
    time_embedding = model.embed_time(torch.tensor([500.0], device=device))
    rotation = video_rope(size.grid, model.config.head_dim, device)
    return lambda: model(latent, condition, time_embedding, rotation, context)


def context_of(model: MultiTalkTransformer, size: VideoSize, persons: int, generator: torch.Generator) -> Context:
    """Random text, image and speech; with two persons, one on the left and one on the right."""
    config: TransformerConfig = model.config
    _, h, w = size.latent

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=generator.device)

    halves = torch.zeros(1, 3, h, w, device=generator.device)
    halves[:, 0, :, : w // 3], halves[:, 1, :, -w // 3 :] = 1, 1
    halves[:, 2] = 1 - halves[:, :2].amax(1)
    windows = draw(1, persons, size.frames, config.audio_window, config.audio_layers, config.audio_dim)
    return Context(
        text=model.embed_text(draw(1, 20, config.text_dim)),
        image=model.embed_image(draw(1, config.image_tokens, config.image_dim)),
        speech=model.embed_speech(windows),
        masks=token_masks(halves, *size.grid[1:]) if persons == 2 else None,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.forward", description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS / "forward.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = WAN_CONFIGS["multitalk-puppet"]
    height, width = config.buckets["720"]["0.50"]
    size = VideoSize(frames=config.frame_num, height=height, width=width)
    with torch.inference_mode():
        model = MultiTalkTransformer(config.transformer).eval()
        calls = {f"{persons} person(s)": forward_call(model, size, persons) for persons in (1, 2)}
        found = measure_in_turn(calls, torch.device("cpu"), options.repeats)
        result = {name: asdict(spread) for name, spread in found.items()}
    rows, columns = size.grid[1:]
    document = {
        **environment("benchmarks.speed.forward"),
        "model": config.name,
        "frames": size.frames,
        "tokens": size.grid[0] * rows * columns,
        "forward": result,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=2) + "\n")
    logger.info("%s", json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
