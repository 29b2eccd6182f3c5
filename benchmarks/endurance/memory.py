"""`python -m benchmarks.endurance.memory`: host memory for 20 minutes of audio against 20 seconds.

Each length is one prediction of the small model in a process of its own, through the predictor itself: from a sound
file to an MP4, with one denoising step at the smallest size. Chunks are as long as the large model's and repeat five
frames, so that little is decoded twice. `--shrink 2` halves the sides, for a look in a third of the time (and a smaller
peak, against which growth weighs more). The last line is `peak_20s_mb=<x> peak_20min_mb=<y>`: the most that the process
had in memory, in 10^6 bytes, mapped files included.
"""

import argparse
import json
import logging
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
from benchmarks.report.environment import RESULTS, environment

logger = logging.getLogger(__name__)

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = (128, 64)
"""Width and height of the picture, which are those of the smallest bucket."""
LENGTHS = {"20s": 20, "20min": 1200}
ALLOWED = 1.1
"""The second peak may be as many times the first."""
CHUNK, OVERLAP = 81, 5


def write_voice(path: Path, seconds: int) -> None:
    """The example's voice, again and again."""
    samples_N, rate = soundfile.read(EXAMPLES / "voice_anna.flac", dtype="float32")
    with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16") as file:
        left = seconds * rate
        for piece_N in cycle([samples_N]):
            file.write(piece_N[:left])
            left -= len(piece_N)
            if left <= 0:
                return


def measure(seconds: int, shrink: int) -> dict[str, float]:
    """Make one video in this process; its peak in bytes, and how long it took."""
    os.environ |= {"MULTITALK_MODEL": "multitalk-puppet", "MAX_SECONDS": str(seconds)}
    generator = VideoGenerator.from_environment(os.environ)
    generator.warm_up()
    config = generator.settings.config
    buckets = {
        size_class: {ratio: (height // shrink, width // shrink) for ratio, (height, width) in table.items()}
        for size_class, table in config.buckets.items()
    }
    config = replace(config, frame_num=CHUNK, motion_frame=OVERLAP, buckets=buckets)
    generator.settings = replace(generator.settings, config=config)
    generator.pipeline.config = config
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        picture, voice = Path(name) / "picture.png", Path(name) / "voice.wav"
        Image.open(EXAMPLES / "portrait.png").resize(SIZE).save(picture)
        write_voice(voice, seconds)
        sampling = {"preset": "fast", "lora_strength": 0.0, "sampling_steps": 1, "seed": 1}
        output = generator.generate({"image": picture, "first_audio": voice, **sampling}, Path(name))
        size = output.path.stat().st_size
    return {"peak": peak(), "seconds": time.perf_counter() - start, "movie_bytes": size}


def peak() -> int:
    """The most bytes that this process has had in memory at once."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def apart(seconds: int, shrink: int) -> dict[str, float]:
    """The same in a process of its own, whose log is passed on."""
    command = [sys.executable, "-m", "benchmarks.endurance.memory", "--one", str(seconds), "--shrink", str(shrink)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = process.stdout.readlines()[-1:]
    if process.returncode or not last:
        raise RuntimeError(f"{seconds} s of sound: the process ended with status {process.returncode}")
    found: dict[str, float] = json.loads(last[0])
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.memory", description=__doc__)
    parser.add_argument("--one", type=int, metavar="SECONDS", help="measure one length in this process")
    parser.add_argument("--shrink", type=int, default=1, help="divide height and width by this")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.json")
    given = parser.parse_args()
    if given.one:
        sys.stdout.write(json.dumps(measure(given.one, given.shrink)) + "\n")
        return 0
    figures = {name: apart(seconds, given.shrink) for name, seconds in LENGTHS.items()}
    ratio = figures["20min"]["peak"] / figures["20s"]["peak"]
    document = {
        **environment("benchmarks.endurance.memory"),
        "chunk": [CHUNK, OVERLAP],
        "lengths": figures,
        "ratio": ratio,
    }
    given.output.write_text(json.dumps(document | {"allowed": ALLOWED}, indent=2) + "\n")
    sys.stdout.write(" ".join(f"peak_{name}_mb={each['peak'] / 1e6:.0f}" for name, each in figures.items()) + "\n")
    return 1 if ratio > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
