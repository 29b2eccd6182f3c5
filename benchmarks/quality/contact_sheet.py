"""`python -m benchmarks.quality.contact_sheet PNG`: frames of a video file or of a benchmark clip.

A name that ends in .gif gets all frames of the first video, as an animation at half the frame rate.

A clip is shown twice, as the model made it and as the renderer draws it, with each face's own opening as a bar below.
Shapes: F frames, H x W pixels.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.quality.clips import ROWS, Clip, draw_clip
from benchmarks.quality.face_reader import Video
from benchmarks.report import cli_args
from src.media.rates import FPS
from training.mouths import Track

_GAP = 4
_BAR = 10
_BACKGROUND, _FOREGROUND = (255, 255, 255), (30, 90, 160)


def contact_sheet(
    videos: Sequence[Video], tracks: Sequence[Track], columns: int, count: int, scale: int
) -> Image.Image:
    """Up to `count` frames, evenly spaced: one line of pictures a video, bars of all tracks (0..1) below."""
    chosen = np.unique(np.linspace(0, len(videos[0]) - 1, count).round().astype(int))
    stacks = [_stack([video[frame] for video in videos], [track[frame] for track in tracks], scale) for frame in chosen]
    width, height = stacks[0].size
    lines = -(-len(stacks) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP), lines * (height + 2 * _GAP)), _BACKGROUND)
    for place, stack in enumerate(stacks):
        sheet.paste(stack, (place % columns * (width + _GAP), place // columns * (height + 2 * _GAP)))
    return sheet


def _stack(frames: Sequence[NDArray[np.uint8]], openings: Sequence[float], scale: int) -> Image.Image:
    """One moment: the same frame of every video, then the bars."""
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures = [one.resize((one.width * scale, one.height * scale), Image.Resampling.NEAREST) for one in pictures]
    width, height = pictures[0].size
    stack = Image.new("RGB", (width, len(pictures) * height + _BAR * bool(openings)), _BACKGROUND)
    for place, picture in enumerate(pictures):
        stack.paste(picture, (0, place * height))
    draw = ImageDraw.Draw(stack)
    for place, opening in enumerate(openings):
        left, room = place * width / len(openings), width / len(openings) - _GAP
        draw.rectangle((left, stack.height - _BAR + 2, left + room * float(opening), stack.height - 2), _FOREGROUND)
    return stack


def clip_videos(clip: Clip, given: argparse.Namespace) -> list[Video]:
    """The model's frames, then the renderer's; only those without weights."""
    if not given.weights.is_dir():
        return [clip.truth()]
    puppet = cli_args.load(given)
    return [puppet.take(clip, cli_args.options(puppet, given)).frames, clip.truth()]


def read_video(path: Path) -> Video:
    """All frames of a file."""
    import av  # nobody needs it for clips

    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def write_animation(video: Video, path: Path, scale: int) -> None:
    """Every second frame, for half as many a second, in one palette."""
    frames = [Image.fromarray(frame) for frame in video[::2]]
    frames = [one.resize((one.width * scale, one.height * scale), Image.Resampling.LANCZOS) for one in frames]
    palette = frames[0].quantize(96)
    first, *rest = (one.quantize(palette=palette, dither=Image.Dither.NONE) for one in frames)
    first.save(path, save_all=True, append_images=rest, duration=2000 // FPS, loop=0, optimize=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.contact_sheet", description=__doc__)
    parser.add_argument("sheet", type=Path, metavar="PNG")
    parser.add_argument("--video", type=Path, help="a file to show instead of a clip")
    parser.add_argument("--row", default="two add", choices=[row.name for row in ROWS])
    parser.add_argument("--index", type=int, default=0, help="of the clip in its row")
    parser.add_argument("--frames", type=int, default=18)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--scale", type=int, default=2)
    cli_args.add_arguments(parser)
    given = parser.parse_args()
    tracks: list[Track] = []
    if given.video is not None:
        videos = [read_video(given.video)]
    else:
        clip = draw_clip(next(row for row in ROWS if row.name == given.row), given.seed, given.index)
        videos, tracks = clip_videos(clip, given), clip.openings
    given.sheet.parent.mkdir(parents=True, exist_ok=True)
    if given.sheet.suffix == ".gif":
        write_animation(videos[0], given.sheet, given.scale)
    else:
        contact_sheet(videos, tracks, given.columns, given.frames, given.scale).save(given.sheet)


if __name__ == "__main__":
    main()
