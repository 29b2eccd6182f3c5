"""Record what the README shows: run `make demo`, then write docs/demo.mp4 and the animation docs/demo.gif.

python -m scripts.record_demo [--check]

`--check` runs nothing and fails if the animation is not that of docs/demo.mp4.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from benchmarks.quality.contact_sheet import read_video, write_animation

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "outputs" / "demo.mp4"
VIDEO, ANIMATION = ROOT / "docs" / "demo.mp4", ROOT / "docs" / "demo.gif"
_SCALE = 2


def is_current(video: Path, animation: Path) -> bool:
    """Whether an animation has the frames that `write_animation` makes of the video."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.gif"
        write_animation(read_video(video), made, _SCALE)
        with Image.open(made) as first, Image.open(animation) as second:
            pairs = zip(*([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(g)] for g in (first, second)))
            return first.n_frames == second.n_frames and all(np.array_equal(*pair) for pair in pairs)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare docs/demo.gif with docs/demo.mp4")
    if parser.parse_args().check:
        return 0 if is_current(VIDEO, ANIMATION) else 1
    subprocess.run(["make", "demo"], cwd=ROOT, check=True)
    shutil.copyfile(RECORDED, VIDEO)
    write_animation(read_video(VIDEO), ANIMATION, _SCALE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
