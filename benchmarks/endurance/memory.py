"""`python -m benchmarks.endurance.memory`: peak host memory for 20 seconds and for 20 minutes of audio.

Each length is one video of the built-in model in a new process, from an audio file to an MP4, with one denoising step
at the smallest size. Chunks have the length of the 14B model's and overlap by five frames, so that few frames are
decoded twice. `--shrink 2` halves height and width, which takes a third of the time. Written to
benchmarks/results/memory.json. The last line is `peak_20s_mb=<x> peak_20min_mb=<y>`: the peak resident set size in 10^6
bytes, including mapped files. The exit status is 1 if the second peak is more than 1.1 times the first.
"""

from collections.abc import Sequence

from benchmarks.report.defaults import RESULTS
from src.command_line import Parser, launch, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.endurance.memory", __doc__)
    parser.add_argument(
        "--one", type=whole_number(), metavar="SECONDS", help="measure one length in this process and print JSON"
    )
    parser.add_argument("--shrink", type=whole_number(), default=1, help="divisor of height and width")
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "memory.json", help="JSON file to write")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.endurance.memory", make_parser)

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import soundfile
from PIL import Image

from app.generator import VideoGenerator
from benchmarks.report.environment import environment, write_result

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = (128, 64)
"""Width and height of the image, equal to the smallest bucket."""
LENGTHS = {"20s": 20, "20min": 1200}
"""Seconds of audio."""
MAX_RATIO = 1.1
"""Limit of the second peak divided by the first."""
CHUNK, OVERLAP = 81, 5
"""Frames."""


def write_audio(path: Path, seconds: int) -> None:
    """Write a WAV file that repeats the example voice."""
    samples_N, rate = soundfile.read(EXAMPLES / "voice_anna.flac", dtype="float32")
    with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16") as file:
        remaining = seconds * rate
        for block_N in cycle([samples_N]):
            file.write(block_N[:remaining])
            remaining -= len(block_N)
            if remaining <= 0:
                return


def measure(seconds: int, shrink: int) -> dict[str, float]:
    """Generate one video in this process; returns peak bytes, seconds, and the size of the file."""
    environ = {**os.environ, "MULTITALK_MODEL": "multitalk-puppet", "MAX_SECONDS": str(seconds)}
    generator = VideoGenerator.from_environment(environ)
    generator.warm_up()
    config = generator.settings.config
    buckets = {
        size_class: {ratio: (height // shrink, width // shrink) for ratio, (height, width) in table.items()}
        for size_class, table in config.buckets.items()
    }
    presets = {**config.presets, "fast": replace(config.presets["fast"], sampling_steps=1)}
    config = replace(config, frame_num=CHUNK, motion_frame=OVERLAP, buckets=buckets, presets=presets)
    generator.settings = replace(generator.settings, config=config)
    generator.pipeline.config = config
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        image, audio = Path(folder) / "image.png", Path(folder) / "audio.wav"
        Image.open(EXAMPLES / "portrait.png").resize(SIZE).save(image)
        write_audio(audio, seconds)
        sampling = {"preset": "fast", "lora_strength": 0.0, "seed": 1}
        output = generator.generate({"image": image, "first_audio": audio, **sampling}, Path(folder))
        video_bytes = output.path.stat().st_size
    return {"peak_bytes": peak_rss(), "seconds": time.perf_counter() - start, "video_bytes": video_bytes}


def peak_rss() -> int:
    """Peak resident set size of this process in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure_in_subprocess(seconds: int, shrink: int) -> dict[str, float]:
    """Run `measure` in a new process; its stderr is passed through."""
    command = [sys.executable, "-m", "benchmarks.endurance.memory", "--one", str(seconds), "--shrink", str(shrink)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout.readlines()
    if process.returncode or not lines:
        raise RuntimeError(f"{seconds} s of audio: the process exited with status {process.returncode}")
    result: dict[str, float] = json.loads(lines[-1])
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = make_parser().parse_args(argv)
    if args.one:
        sys.stdout.write(json.dumps(measure(args.one, args.shrink)) + "\n")
        return 0
    lengths = {name: measure_in_subprocess(seconds, args.shrink) for name, seconds in LENGTHS.items()}
    ratio = lengths["20min"]["peak_bytes"] / lengths["20s"]["peak_bytes"]
    document = {
        **environment("benchmarks.endurance.memory"),
        "chunk": [CHUNK, OVERLAP],
        "lengths": lengths,
        "ratio": ratio,
        "allowed": MAX_RATIO,
    }
    write_result(args.output, document)
    sys.stdout.write(
        " ".join(f"peak_{name}_mb={each['peak_bytes'] / 1e6:.0f}" for name, each in lengths.items()) + "\n"
    )
    return 1 if ratio > MAX_RATIO else 0
