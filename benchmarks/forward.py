"""`python -m benchmarks.forward`: seconds of one forward of the small model, with one and with two persons.

Two persons cost label maps that one does not; both are measured in one run, so that the ratio means something on a
noisy machine. The result is written as JSON into `benchmarks/results/`.
"""

import argparse
import json
import logging
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from wan.configs import WAN_CONFIGS
from wan.configs.schema import TransformerConfig
from wan.modules.labels import token_masks
from wan.modules.rope import video_rotation
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.types import VideoSize

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"


def forward_call(model: MultiTalkTransformer, size: VideoSize, persons: int) -> Callable[[], Any]:
    """One forward on random inputs, with everything that is constant in a clip computed beforehand."""
    config: TransformerConfig = model.config
    t, h, w = size.latent
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    halves = torch.zeros(1, 3, h, w)
    halves[:, 0, :, : w // 3], halves[:, 1, :, -w // 3 :] = 1, 1
    halves[:, 2] = 1 - halves[:, :2].amax(1)
    windows = draw(1, persons, size.frames, config.audio_window, config.audio_layers, config.audio_dim)
    context = Context(
        text=model.embed_text(draw(1, 20, config.text_dim)),
        image=model.embed_image(draw(1, config.image_tokens, config.image_dim)),
        speech=model.embed_speech(windows),
        masks=token_masks(halves, *size.grid[1:]) if persons == 2 else None,
    )
    latent, condition = draw(1, 16, t, h, w), draw(1, 20, t, h, w)
    time_embedding = model.embed_time(torch.tensor([500.0]))
    rotation = video_rotation(size.grid, config.head_dim, "cpu")
    return lambda: model(latent, condition, time_embedding, rotation, context)


def measure(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median and extremes of each call, taken in turn so that a disturbance meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat:  # the first round is a warm-up
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {"median_s": statistics.median(taken), "min_s": min(taken), "max_s": max(taken)}
        for name, taken in seconds.items()
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def provenance() -> dict[str, Any]:
    """What is needed to measure the same again."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": " ".join(["python", "-m", "benchmarks.forward", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forward", description=__doc__)
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
        result = measure(calls, options.repeats)
    rows, columns = size.grid[1:]
    document = {
        **provenance(),
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
