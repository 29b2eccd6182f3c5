"""The written MP4 holds every frame, its colors, and the soundtrack in sync."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from src.media.audio.audio import Audio
from src.media.audio.convert import pad_or_trim
from src.media.audio.read import read_audio
from src.media.rates import samples_at
from src.media.video.writer import VideoWriter
from tests.src.media.audio.recordings import correlation, tones

HEIGHT, WIDTH = 48, 80


def frames_of(count: int) -> np.ndarray:
    """Red, green and blue columns, and a gray one that becomes lighter: (F, H, W, 3) uint8."""
    frames_FHWC = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    for color in range(3):
        frames_FHWC[:, :, 20 * color : 20 * (color + 1), color] = 255
    frames_FHWC[:, :, 60:] = np.linspace(20, 230, count).astype(np.uint8)[:, None, None, None]
    return frames_FHWC


def write(path: Path, frames_FHWC: np.ndarray, soundtrack: Audio | None = None, **options: Any) -> Path:
    """Write an MP4; the soundtrack is cut or padded to the length of the frames."""
    count = len(frames_FHWC)
    if soundtrack is not None:
        soundtrack = pad_or_trim(soundtrack, samples_at(soundtrack.sample_rate, count))
    with VideoWriter(path, width=WIDTH, height=HEIGHT, num_frames=count, soundtrack=soundtrack, **options) as writer:
        for first in range(0, count, 7):
            writer.write(frames_FHWC[first : first + 7])
    return path


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("count", [1, 2, 25, 81])
def test_every_frame_keeps_its_colors(tmp_path: Path, count: int) -> None:
    frames_FHWC = frames_of(count)
    decoded = decode(write(tmp_path / "a.mp4", frames_FHWC))
    assert len(decoded) == count
    columns = [10, 30, 50, 70]
    gaps = np.abs(np.stack(decoded).astype(int)[:, 24, columns] - frames_FHWC[:, 24, columns])
    assert gaps.max() <= 6


def test_codecs_tags_and_index_position(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", frames_of(5), Audio(samples_CN=tones(44100, 2), sample_rate=44100))
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
        assert video.average_rate == 25
        assert (video.width, video.height) == (WIDTH, HEIGHT)
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 44100, 2)
        frame = next(container.decode(video=0))
        tags = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
        assert tags == (1, 1, 1, 1)  # BT.709, limited range
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert b"colrnclx" in data


@pytest.mark.parametrize(
    ("rate", "channels", "count"),
    [(44100, 2, 37), (48000, 1, 25), (8000, 1, 50), (11025, 2, 1), (22050, 4, 30), (96000, 2, 13), (16000, 3, 81)],
)
def test_soundtrack_keeps_its_format_and_has_the_length_of_the_video(
    tmp_path: Path, rate: int, channels: int, count: int
) -> None:
    samples_CN = tones(rate, channels, 2.0)
    path = write(tmp_path / "a.mp4", frames_of(count), Audio(samples_CN=samples_CN, sample_rate=rate))
    with av.open(str(path)) as container:
        for stream in container.streams:
            assert stream.duration is not None
            assert stream.time_base is not None
            assert float(stream.duration * stream.time_base) == pytest.approx(count / 25, abs=0.5 / rate)
    audio = read_audio(path, name="first_audio", max_seconds=60)
    assert (audio.sample_rate, audio.samples_CN.shape) == (rate, (channels, round(count / 25 * rate)))
    assert correlation(audio.samples_CN, samples_CN) > 0.98


@pytest.mark.parametrize("fps", [8, 24, 30, 60])
@pytest.mark.parametrize("count", [1, 26])
def test_other_frame_rates_show_the_same_frames_at_the_same_time(tmp_path: Path, fps: int, count: int) -> None:
    frames_FHWC = frames_of(count)
    path = write(tmp_path / "a.mp4", frames_FHWC, Audio(samples_CN=tones(16000, 1, 4.0), sample_rate=16000), fps=fps)
    decoded = decode(path)
    assert len(decoded) == max(1, round(count * fps / 25))
    for index, frame_HWC in enumerate(decoded):
        nearest = min(round((index + 0.5) / fps * 25 - 0.5), count - 1)
        shades = frames_FHWC[max(0, nearest - 1) : nearest + 2, 24, 70, 0].astype(int)
        assert shades.min() - 6 <= frame_HWC[24, 70, 0] <= shades.max() + 6
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.average_rate == fps
        assert float((audio.duration or 0) * (audio.time_base or 0)) == pytest.approx(count / 25, abs=1e-3)


def test_short_soundtrack_is_followed_by_silence(tmp_path: Path) -> None:
    soundtrack = Audio(samples_CN=tones(16000, 1, 0.4), sample_rate=16000)
    audio = read_audio(write(tmp_path / "a.mp4", frames_of(25), soundtrack), name="first_audio", max_seconds=9)
    assert np.abs(audio.samples_CN[:, :6000]).max() > 0.2
    assert np.abs(audio.samples_CN[:, 9000:]).max() < 1e-3


@pytest.mark.parametrize(
    ("source", "encoded"), [((192000, 1), (96000, 1)), ((37800, 7), (44100, 2)), ((6000, 9), (7350, 2))]
)
def test_formats_without_aac_support_are_converted(
    tmp_path: Path, source: tuple[int, int], encoded: tuple[int, int]
) -> None:
    soundtrack = Audio(samples_CN=tones(*source, 0.6), sample_rate=source[0])
    with av.open(str(write(tmp_path / "a.mp4", frames_of(10), soundtrack))) as container:
        audio = container.streams.audio[0]
        assert (audio.rate, audio.channels) == encoded


@pytest.mark.parametrize("channels", [6, 8])
def test_surround_channels_keep_their_order(tmp_path: Path, channels: int) -> None:
    """All but the fourth channel, which AAC low-pass filters (LFE)."""
    samples_CN = tones(48000, channels)
    path = write(tmp_path / "a.mp4", frames_of(30), Audio(samples_CN=samples_CN, sample_rate=48000))
    audio = read_audio(path, name="first_audio", max_seconds=9)
    kept = [channel for channel in range(channels) if channel != 3]
    assert correlation(audio.samples_CN[kept], samples_CN[kept]) > 0.98


def test_audio_and_video_packets_are_interleaved(tmp_path: Path) -> None:
    """Otherwise a player has to buffer a whole stream."""
    soundtrack = Audio(samples_CN=tones(48000, 2, 6.0), sample_rate=48000)
    with av.open(str(write(tmp_path / "a.mp4", frames_of(150), soundtrack))) as container:
        packets = [
            (packet.pos or 0, packet.stream.type, (packet.dts or 0) * packet.time_base)
            for packet in container.demux()
            if packet.size
        ]
    latest = {"video": 0.0, "audio": 0.0}
    for _, kind, time in sorted(packets):
        latest[kind] = float(time)
        assert abs(latest["video"] - latest["audio"]) < 1.1


def test_packets_are_written_as_they_are_encoded(tmp_path: Path) -> None:
    """Memory holds the encoder's lookahead, not the whole video."""
    noise_FHWC = np.random.default_rng(0).integers(0, 256, (200, HEIGHT, WIDTH, 3), np.uint8)
    soundtrack = Audio(samples_CN=tones(48000, 2, 8.0), sample_rate=48000)
    path = tmp_path / "a.mp4"
    with VideoWriter(path, width=WIDTH, height=HEIGHT, num_frames=200, soundtrack=soundtrack) as writer:
        writer.write(noise_FHWC)
        (tmp_file,) = tmp_path.iterdir()
        written = tmp_file.stat().st_size
    assert written > 0.6 * path.stat().st_size


@pytest.mark.parametrize("written", [0, 5, 7])
def test_another_number_of_frames_leaves_no_file(tmp_path: Path, written: int) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, num_frames=6)
    with pytest.raises(ValueError, match=f"{written} frames written; 6 were announced"), writer:
        writer.write(frames_of(written))
    assert list(tmp_path.iterdir()) == []


class Cancelled(BaseException):
    """Like the exception that cancels a request: not an Exception."""


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Cancelled])
@pytest.mark.parametrize("written", [0, 4])
def test_exceptions_leave_no_file(tmp_path: Path, error: type[BaseException], written: int) -> None:
    def cancelled() -> Iterator[np.ndarray]:
        yield frames_of(written)
        raise error

    soundtrack = Audio(samples_CN=tones(16000, 1, 6 / 25), sample_rate=16000)
    writer = VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, num_frames=6, soundtrack=soundtrack)
    with pytest.raises(error), writer:
        deque(map(writer.write, cancelled()))
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("earlier")
    with VideoWriter(path, width=WIDTH, height=HEIGHT, num_frames=2) as writer:
        writer.write(frames_of(2))
        assert path.read_text() == "earlier"
    assert len(decode(path)) == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, HEIGHT, WIDTH, 3), np.float32), np.zeros((1, WIDTH, HEIGHT, 3), np.uint8)]
)
def test_other_dtypes_and_shapes_are_refused(tmp_path: Path, wrong: np.ndarray) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, num_frames=1)
    with pytest.raises(ValueError, match="needs uint8"), writer:
        writer.write(wrong)


@pytest.mark.parametrize("size", [(81, 48), (80, 47), (0, 48)])
def test_odd_and_empty_sizes_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}"):
        VideoWriter(tmp_path / "a.mp4", width=size[0], height=size[1], num_frames=1)
