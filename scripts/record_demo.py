"""Record what the README shows: run `make demo`, then write docs/demo.mp4 and the animation docs/demo.gif.

python -m scripts.record_demo [--check]

`--check` runs nothing and fails if the animation is not that of docs/demo.mp4.
"""

from collections.abc import Sequence

from src.command_line import Parser, launch


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m scripts.record_demo", __doc__)
    parser.add_argument("--check", action="store_true", help="only compare docs/demo.gif with docs/demo.mp4")
    return parser


if __name__ == "__main__":  # before the imports below
    launch("scripts.record_demo", make_parser)


import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
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
        return np.array_equal(read_animation(made), read_animation(animation))


def read_animation(path: Path) -> NDArray[np.uint8]:
    """All frames, F x H x W x 3."""
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    if make_parser().parse_args(argv).check:
        return 0 if is_current(VIDEO, ANIMATION) else 1
    subprocess.run(["make", "demo"], cwd=ROOT, check=True)
    shutil.copyfile(RECORDED, VIDEO)
    write_animation(read_video(VIDEO), ANIMATION, _SCALE)
    return 0
