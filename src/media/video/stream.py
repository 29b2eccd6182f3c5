"""The video stream of an untrusted file: what may be opened, and its decoded frames with timestamps.

Only known containers and codecs are opened, and FFmpeg itself refuses larger frames.
"""

import heapq
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from src.media.container import OPTIONS, is_truncated_matroska, open_container, presentation_start
from src.media.file_type import MediaFile
from src.media.images.jpeg import MAX_SCANS, count_scans
from src.media.rates import FPS
from src.media.video.frame import sanitize_color_tags
from src.media.video.mp4_index import check_index_size
from src.serving.request_warnings import warn_caller

KINDS = "an MP4, MOV, WebM, MKV, AVI, WMV, FLV or MPEG video"
NEEDED = f"{KINDS} is needed"
CODECS = {"h264": "H.264", "hevc": "HEVC", "vp8": "VP8", "vp9": "VP9", "av1": "AV1"} | {
    "mpeg4": "MPEG-4",
    "mjpeg": "Motion JPEG",
    "prores": "ProRes",
    "mpeg1video": "MPEG-1",
    "mpeg2video": "MPEG-2",
    **dict.fromkeys(("wmv1", "wmv2", "wmv3", "vc1"), "WMV"),
    **dict.fromkeys(("msmpeg4v1", "msmpeg4v2", "msmpeg4v3"), "MS MPEG-4"),
    **dict.fromkeys(("flv1", "vp6", "vp6f"), "Flash Video"),
    "h263": "H.263",
    "theora": "Theora",
    "gif": "GIF",
    "apng": "PNG",
    "dvvideo": "DV",
}
MAX_PIXELS = 4096 * 2304
# FFmpeg decodes a few frames while probing; within this limit it can report the size in the error message.
MAX_PROBE_PIXELS = 4 * MAX_PIXELS
PROBE_OPTIONS = OPTIONS | {"max_pixels": str(MAX_PROBE_PIXELS)}
MAX_FRAME_RATE = 240
# A stream that misses more than this counts as cut off; the duration of the last frame is often an estimate.
TOLERANCE_SECONDS = 1


class DecodedFrame(NamedTuple):
    """A decoded frame, its timestamp in seconds, its sample aspect ratio, and the file's `presentation_start`."""

    seconds: Fraction
    frame: VideoFrame
    pixel_ratio: Fraction
    start: Fraction


def decode_stream(file: MediaFile, *, scan_seconds: float | None = None) -> Generator[DecodedFrame]:
    """Yield the frames of a video; damaged ones are skipped, with a warning.

    The file is opened once. With `scan_seconds` its index and the packets of that many seconds are checked before the
    first frame is decoded; FFmpeg then opens it anew, because a seek to the start skips other frames of damaged files.
    Raises InputError for a file that is not a video, is damaged or cut off, has another codec, or exceeds MAX_PIXELS,
    MAX_STREAMS or MAX_FRAME_RATE.
    """
    with file.path.open("rb") as data:
        if scan_seconds is not None:
            if "mov" in (file.video_container, file.animation_container):
                check_index_size(data, file)
            truncated = is_truncated_matroska(data, file)
            with open_stream(data, file) as (container, stream):
                _scan_packets(container, stream, file, max_seconds=scan_seconds, truncated=truncated)
        with open_stream(data, file) as (container, stream):
            yield from _decode(container, stream, file)


@contextmanager
def open_stream(data: BinaryIO, file: MediaFile) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its main video stream."""
    if file.size < file.declared_size:
        raise file.error(
            f"is damaged or cut off: its header declares {file.declared_size:,} bytes; a complete file is needed"
        )
    format = file.video_container or file.animation_container or "mov"
    with open_container(data, file, kind="video", needed=NEEDED, format=format, options=PROBE_OPTIONS) as container:
        yield container, _video_stream(container, file)


def _video_stream(container: InputContainer, file: MediaFile) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or av.stream.Disposition.attached_pic in stream.disposition:
        raise file.error(f"has no video stream; {NEEDED}")
    context = stream.codec_context
    if context is None or context.codec.canonical_name not in CODECS:
        raise file.error(
            f"has a video stream of another codec; allowed are {', '.join(dict.fromkeys(CODECS.values()))}"
        )
    num_pixels = context.width * context.height
    if num_pixels > MAX_PIXELS:
        size = f"{context.width} x {context.height} pixels"
        raise file.error(f"has {size}, {num_pixels:,} in all; at most {MAX_PIXELS:,} are allowed")
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _scan_packets(
    container: InputContainer, stream: VideoStream, file: MediaFile, *, max_seconds: float, truncated: bool
) -> None:
    """Check frame rate and completeness of the first `max_seconds`, without decoding."""
    num_packets, end = 0, Fraction(0)
    start = None
    for packet in container.demux(stream):
        num_packets += bool(packet.size)
        timestamp = packet.dts if packet.pts is None else packet.pts
        if timestamp is not None:
            start = timestamp if start is None else start
            end = max(end, (timestamp - start + (packet.duration or 0)) * packet.time_base)
        if num_packets > MAX_FRAME_RATE * (end + 1):
            raise file.error(f"has more than {MAX_FRAME_RATE} frames per second, which is the maximum")
        if end > max_seconds:
            return
    declared = _declared_seconds(container, stream, truncated=truncated)
    if declared is not None and end < declared - TOLERANCE_SECONDS:
        raise file.error(
            f"is damaged or cut off: its header declares {float(declared):.2f} s of video, but it holds "
            f"{float(end):.2f} s; a complete file is needed"
        )


def _declared_seconds(container: InputContainer, stream: VideoStream, *, truncated: bool) -> Fraction | None:
    """The length of the video stream, if the file's header declares it; for other files it is FFmpeg's estimate."""
    name = container.format.name
    if name in ("flv", "asf") or (truncated and "matroska" in name):
        return Fraction(container.duration or 0, av.time_base)
    if stream.duration and stream.time_base and (name == "avi" or "mp4" in name):
        return stream.duration * stream.time_base
    return None


def _decode(container: InputContainer, stream: VideoStream, file: MediaFile) -> Iterator[DecodedFrame]:
    """AVI stores the order of decoding only, so that its frames are shown at the ascending times of their packets."""
    is_damaged = False
    seconds, frame_seconds = Fraction(0), 1 / Fraction(stream.average_rate or FPS)
    start = presentation_start(container) or Fraction(0)
    pixel_ratio = stream.sample_aspect_ratio or Fraction(1)
    pending: list[int] = []
    for packet in container.demux(stream):
        if container.format.name == "avi" and packet.size and packet.dts is not None:
            heapq.heappush(pending, packet.dts)
        if stream.codec_context.name == "mjpeg" and count_scans(bytes(packet)) > MAX_SCANS:
            raise file.error(f"has a JPEG of more than {MAX_SCANS} scans")
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            if not is_damaged:
                warn_caller(f"{file.name} has damaged frames near {float(seconds):.2f} s; the ones before are repeated")
            is_damaged, frames = True, []
            if pending:
                heapq.heappop(pending)
        for frame in frames:
            timestamp = heapq.heappop(pending) if pending else frame.pts
            if timestamp is None or frame.time_base is None:
                seconds += frame_seconds
            else:
                seconds = timestamp * frame.time_base
            yield DecodedFrame(seconds, sanitize_color_tags(frame), pixel_ratio, start)
