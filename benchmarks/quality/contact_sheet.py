"""`python -m benchmarks.quality.contact_sheet PNG`: contact sheet of a video file or of a benchmark clip.

A clip is shown twice, as generated and as drawn by the renderer, above a bar with the expected mouth opening of each
face. If the file name ends in .gif, an animation of the first video at half the frame rate is written instead.
Shapes: F frames, H x W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import cli_args
from src.command_line import Parser, existing_file, launch, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.quality.contact_sheet", __doc__)
    parser.add_output("sheet", metavar="PNG", help="image file to write")
    parser.add_argument("--video", type=existing_file, help="video file to show instead of a clip")
    parser.add_argument("--row", default="two add", help="row of the clip")
    parser.add_argument("--index", type=whole_number(0), default=0, help="index of the clip in its row")
    parser.add_argument("--frames", type=whole_number(), default=18, help="maximum number of frames")
    parser.add_argument("--columns", type=whole_number(), default=6, help="frames per line")
    parser.add_argument("--scale", type=whole_number(), default=2, help="magnification")
    cli_args.add_arguments(parser)
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.quality.contact_sheet", make_parser)

import argparse

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.quality.clips import ROWS, Clip, draw_clip
from benchmarks.quality.face_reader import Video
from src.media.rates import FPS
from training.mouths import MouthCurve

_GAP = 4
_BAR_HEIGHT = 10
_BACKGROUND, _FOREGROUND = (255, 255, 255), (30, 90, 160)


def contact_sheet(
    videos: Sequence[Video], openings: Sequence[MouthCurve], columns: int, count: int, scale: int
) -> Image.Image:
    """Up to `count` evenly spaced frames of every video, above bars of the openings (0..1)."""
    indices = np.unique(np.linspace(0, len(videos[0]) - 1, count).round().astype(int))
    tiles = [
        _tile([video[index] for video in videos], [opening[index] for opening in openings], scale) for index in indices
    ]
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP), rows * (height + 2 * _GAP)), _BACKGROUND)
    for position, tile in enumerate(tiles):
        sheet.paste(tile, (position % columns * (width + _GAP), position // columns * (height + 2 * _GAP)))
    return sheet


def _tile(frames: Sequence[NDArray[np.uint8]], openings: Sequence[float], scale: int) -> Image.Image:
    """The same frame of every video, stacked, above the bars."""
    images = [Image.fromarray(frame) for frame in frames]
    images = [each.resize((each.width * scale, each.height * scale), Image.Resampling.NEAREST) for each in images]
    width, height = images[0].size
    tile = Image.new("RGB", (width, len(images) * height + _BAR_HEIGHT * bool(openings)), _BACKGROUND)
    for position, image in enumerate(images):
        tile.paste(image, (0, position * height))
    draw = ImageDraw.Draw(tile)
    for position, opening in enumerate(openings):
        left, max_length = position * width / len(openings), width / len(openings) - _GAP
        right = left + max_length * float(opening)
        draw.rectangle((left, tile.height - _BAR_HEIGHT + 2, right, tile.height - 2), _FOREGROUND)
    return tile


def clip_videos(clip: Clip, args: argparse.Namespace) -> list[Video]:
    """The generated frames (if there are weights) and the ground truth."""
    if not args.weights.is_dir():
        return [clip.ground_truth()]
    puppet = cli_args.load_puppet(args)
    return [puppet.generate(clip, cli_args.sampling_options(puppet, args)).frames, clip.ground_truth()]


def read_video(path: Path) -> Video:
    """All frames of a video file."""
    import av  # not needed for clips

    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def write_animation(video: Video, path: Path, scale: int) -> None:
    """Write every second frame as a GIF at half the frame rate, with one palette."""
    frames = [Image.fromarray(frame) for frame in video[::2]]
    frames = [each.resize((each.width * scale, each.height * scale), Image.Resampling.LANCZOS) for each in frames]
    palette = frames[0].quantize(96)
    first, *rest = (each.quantize(palette=palette, dither=Image.Dither.NONE) for each in frames)
    first.save(path, save_all=True, append_images=rest, duration=2000 // FPS, loop=0, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = make_parser()
    args = parser.parse_args(argv)
    rows = {row.name: row for row in ROWS}
    if args.row not in rows:
        parser.error(f"--row is {args.row!r}; allowed are {', '.join(rows)}")
    openings: list[MouthCurve] = []
    if args.video is not None:
        videos = [read_video(args.video)]
    else:
        clip = draw_clip(rows[args.row], args.seed, args.index)
        videos, openings = clip_videos(clip, args), clip.openings
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    if args.sheet.suffix == ".gif":
        write_animation(videos[0], args.sheet, args.scale)
    else:
        contact_sheet(videos, openings, args.columns, args.frames, args.scale).save(args.sheet)
