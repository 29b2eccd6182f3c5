"""The video track of a file: what may be opened at all, and its pictures with their times.

Uploads come from strangers: only known containers and encodings are opened, and FFmpeg refuses larger pictures itself.
"""

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from src.errors import InputError
from src.media.audio.declared_length import is_truncated_matroska
from src.media.audio.ffmpeg import OPTIONS
from src.media.file_type import describe_file, read_head
from src.media.rates import FPS
from src.media.video.frame import sanitize_color_tags
from src.media.video.mp4_index import check_index_size

logger = logging.getLogger(__name__)

KINDS = "an MP4, MOV, WebM or MKV video"
EBML = b"\x1aE\xdf\xa3"
# What the first box of an MP4 or MOV file may be, and the brands of those that are pictures or sound.
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
OTHER_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"M4A ", b"M4B ")
CODECS = {"h264": "H.264", "hevc": "HEVC", "vp8": "VP8", "vp9": "VP9", "av1": "AV1"} | {
    "mpeg4": "MPEG-4",
    "mjpeg": "Motion JPEG",
    "prores": "ProRes",
}
MAX_PIXELS = 4096 * 2304
# FFmpeg decodes a little to learn what a header leaves open; that much larger may be what is refused by its size.
MAX_PROBE_PIXELS = 4 * MAX_PIXELS
PROBE_OPTIONS = OPTIONS | {"max_pixels": str(MAX_PROBE_PIXELS)}
MAX_STREAMS = 32
MAX_RATE = 240
# How much of a track may be missing before its file counts as cut off: the last picture's duration is often a guess.
TOLERANCE_SECONDS = 1


class DecodedFrame(NamedTuple):
    """A decoded picture, when it is due, and how wide its pixels are for their height."""

    seconds: Fraction
    frame: VideoFrame
    pixel_ratio: Fraction


def is_video(path: Path) -> bool:
    """Whether a file is a video in a container that is known here, by its first bytes."""
    head = read_head(path)
    return head[:4] == EBML or (head[4:8] in BOXES and head[8:12] not in OTHER_BRANDS)


@contextmanager
def open_stream(path: Path, *, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its main video track, once both are allowed. Raises InputError for what is not."""
    check_index_size(path, name=name)
    kind = "matroska" if read_head(path)[:4] == EBML else "mov"
    try:
        with (
            path.open("rb") as file,
            av.open(file, "r", format=kind, options=PROBE_OPTIONS, metadata_errors="replace") as container,
        ):
            yield container, _video_stream(container, path, name=name)
    except (av.FFmpegError, OSError) as error:
        reason = f"is no video, damaged or cut off ({error.strerror})"
        raise InputError(f"{name}: {describe_file(path)} {reason}; {KINDS} is needed") from error


def _video_stream(container: InputContainer, path: Path, *, name: str) -> VideoStream:
    what = f"{name}: {describe_file(path)}"
    if len(container.streams) > MAX_STREAMS:
        raise InputError(f"{what} has {len(container.streams):,} tracks; at most {MAX_STREAMS} are allowed")
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or av.stream.Disposition.attached_pic in stream.disposition:
        raise InputError(f"{what} has no video track; {KINDS} is needed")
    context = stream.codec_context
    if context is None or context.codec.canonical_name not in CODECS:
        raise InputError(f"{what} has a video of another encoding; allowed are {', '.join(CODECS.values())}")
    if context.width * context.height > MAX_PIXELS:
        size = f"has {context.width} x {context.height} pixels"
        raise InputError(
            f"{what} {size}, {context.width * context.height:,} in all; at most {MAX_PIXELS:,} are allowed"
        )
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def scan_packets(path: Path, *, max_seconds: float, name: str) -> None:
    """Look through the packets of the first `max_seconds`, without decoding them.

    Raises InputError for more than MAX_RATE pictures a second, and for a file that was cut off.
    """
    with open_stream(path, name=name) as (container, stream):
        count, latest = 0, Fraction(0)
        begin = None
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            begin = packet.pts if begin is None else begin
            latest = max(latest, (packet.pts - begin + (packet.duration or 0)) * packet.time_base)
            count += 1
            if count > MAX_RATE * (latest + 1):
                raise InputError(
                    f"{name}: {describe_file(path)} has more than {MAX_RATE} frames a second, which is the maximum"
                )
            if latest > max_seconds:
                return
        _check_not_truncated(container, stream, latest, path, name=name)


def _check_not_truncated(
    container: InputContainer, stream: VideoStream, found: Fraction, path: Path, *, name: str
) -> None:
    """InputError when the track ends well before its container says."""
    promised = stream.duration * stream.time_base if stream.duration and stream.time_base else None
    if "matroska" in container.format.name:
        promised = Fraction(container.duration or 0, av.time_base) if is_truncated_matroska(path) else None
    if promised is not None and found < promised - TOLERANCE_SECONDS:
        raise InputError(
            f"{name}: {describe_file(path)} is damaged or cut off: its header declares {float(promised):.2f} s "
            f"of video, but it holds {float(found):.2f} s; a complete file is needed"
        )


def decode_stream(path: Path, *, name: str) -> Generator[DecodedFrame]:
    """The pictures of a file, one after the other; damaged ones are left out, with a warning."""
    damaged = False
    with open_stream(path, name=name) as (container, stream):
        seconds, step = Fraction(0), 1 / Fraction(stream.average_rate or FPS)
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                if not damaged:
                    logger.warning("%s has damaged pictures near %.2f s, and others hold over them", name, seconds)
                damaged, frames = True, []
            for frame in frames:
                if frame.pts is None or frame.time_base is None:
                    seconds += step
                else:
                    seconds = frame.pts * frame.time_base
                yield DecodedFrame(seconds, sanitize_color_tags(frame), stream.sample_aspect_ratio or Fraction(1))
