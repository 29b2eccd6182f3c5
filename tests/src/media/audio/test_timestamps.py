"""Frames are placed by their timestamps; jitter moves nothing."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from src.media.audio.read import read_audio
from src.media.audio.timestamps import place_frames
from src.serving.request_warnings import collect_warnings
from tests.src.media.audio.recordings import correlation, encoded, tones

RATE = 48_000
FRAME = 960
SECONDS = FRAME / RATE


def frames(times: Sequence[float | None]) -> list[av.AudioFrame]:
    """Frames of 20 ms with timestamps in seconds."""
    result = []
    for time in times:
        frame = av.AudioFrame.from_ndarray(np.zeros((1, FRAME), np.float32), format="flt", layout="mono")
        frame.rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = None if time is None else round(time * RATE)
        result.append(frame)
    return result


def place(
    times: Sequence[float | None], start: float | None = 0.0, max_late: float = 60, max_gap: float = 10
) -> tuple[dict[int, float], list[str]]:
    """Milliseconds of silence (or, negative, of what is left out) before each frame that is moved, and warnings."""
    with collect_warnings() as warnings:
        placed = place_frames(iter(frames(times)), start=start, max_late=max_late, max_gap=max_gap, name="first_audio")
        moved = {i: (item.silence - item.skip) / RATE * 1000 for i, item in enumerate(placed)}
    return {i: milliseconds for i, milliseconds in moved.items() if milliseconds}, warnings


def regular(count: int, start: float = 0.0) -> list[float]:
    return [start + SECONDS * i for i in range(count)]


@pytest.mark.parametrize(
    ("times", "start", "expected"),
    [
        (regular(50), 0.0, {}),
        (regular(50, start=7.3), None, {}),
        (regular(50, start=1.0), 0.0, {0: 1000}),
        (regular(20) + regular(20, start=2.0), 0.0, {20: 1600}),
        (regular(20) + regular(20, start=0.4 + 0.02), 0.0, {20: 20}),
        (regular(20) + regular(20, start=0.4 - 0.03), 0.0, {20: -20}),
        (regular(50, start=-0.0065), 0.0, {0: -6.5}),
        (regular(50, start=-2.01), None, {}),
        (regular(200, start=-2.01), 0.0, dict.fromkeys(range(100), -20.0) | {100: -10}),
        ([None] * 30, 0.0, {}),
        ([*regular(10), None, *regular(20, start=0.22)], 0.0, {}),
        (regular(5) + regular(5, start=3600), 0.0, {5: 3_599_900}),
    ],
)
def test_gaps_and_overlaps(times: list[float | None], start: float | None, expected: dict[int, float]) -> None:
    moved, warnings = place(times, start, max_gap=np.inf)
    assert moved == pytest.approx(expected)
    assert not warnings


@pytest.mark.parametrize("amount", [0.012, 0.05, 0.3])
def test_jitter_moves_nothing(amount: float) -> None:
    """The packets of some recorders have the time of their arrival."""
    random = np.random.default_rng(0)
    late = [time + amount * (random.random() < 0.3) * random.random() for time in regular(200)]
    assert place(late) == ({}, [])


def test_slow_clock_is_followed_to_20_ms() -> None:
    times = [1.001 * time for time in regular(3000)]
    moved, _ = place(times)
    position, worst = 0.0, 0.0
    for number, time in enumerate(times):
        position += moved.get(number, 0.0) / 1000
        worst, position = max(worst, abs(time - position)), position + SECONDS
    assert worst < 0.02
    assert len(moved) == 3


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (regular(20, start=5) + regular(20), "step by -5.40 s at 0.00 s, which is ignored"),
        (regular(20) + regular(20, start=40), "step by +39.60 s at 40.00 s, which is ignored"),
        (regular(20, start=3600), "step by +3600.00 s at 3600.00 s, which is ignored"),
    ],
)
def test_restarted_clock_is_ignored_with_a_warning(times: list[float], words: str) -> None:
    moved, warnings = place(times)
    assert not {number for number in moved if number}
    assert len(warnings) == 1
    assert words in warnings[0]


def write_two_tracks(path: Path, form: str) -> Path:
    """A file whose audio streams are a low tone and then a high one, after a data stream if the format has any."""
    with av.open(str(path), "w", format=form) as container:
        if form == "mpegts":
            container.add_data_stream("bin_data")
        streams = [container.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
        for stream, pitch in zip(streams, (300, 900), strict=True):
            tone_1N = 0.3 * np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE)[None]
            frame = av.AudioFrame.from_ndarray(tone_1N.astype(np.float32), format="flt", layout="mono")
            frame.rate, frame.pts = RATE, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def pitch_of(path: Path) -> int:
    audio = read_audio(path, name="first_audio", max_seconds=60)
    spectrum = np.abs(np.fft.rfft(audio.samples_CN[0, :RATE]))
    return round(float(spectrum.argmax() * RATE / min(RATE, audio.num_samples)))


@pytest.mark.parametrize("form", ["mp4", "mpegts"])
def test_first_of_several_audio_streams_is_used(tmp_path: Path, form: str) -> None:
    with collect_warnings() as warnings:
        assert pitch_of(write_two_tracks(tmp_path / "upload", form)) == 300
    assert not warnings


def test_audio_stream_of_unknown_codec_is_passed_over(tmp_path: Path) -> None:
    path = write_two_tracks(tmp_path / "upload", "mp4")
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"????", 1).replace(b"esds", b"????", 1))
    with collect_warnings() as warnings:
        assert pitch_of(path) == 900
    assert warnings == ["first_audio: its audio stream 1 cannot be decoded; stream 2 is used instead"]


def test_audio_stream_whose_packets_are_all_damaged_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    with av.open(str(path), "w", format="matroska") as container:
        broken = container.add_stream("flac", rate=RATE, layout="mono")
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        for first in range(0, RATE, 4608):
            frame = av.AudioFrame.from_ndarray(np.full((1, 4608), 1000, np.int16), format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
            container.mux(stream.encode(frame))
            packet = av.Packet(b"no FLAC at all")
            packet.stream, packet.pts, packet.dts, packet.time_base = broken, first, first, Fraction(1, RATE)
            container.mux(packet)
        container.mux(stream.encode(None))
    with collect_warnings() as warnings:
        audio = read_audio(path, name="first_audio", max_seconds=60)
    assert audio.samples_CN.mean() == pytest.approx(1000 / 32768, rel=0.01)
    assert warnings


def test_lost_packets_become_silence(tmp_path: Path) -> None:
    """What follows a lost packet stays where it was."""
    samples_CN = tones(RATE, 1, seconds=2)
    whole = encoded(tmp_path / "whole", samples_CN, RATE, codec="flac", form="matroska")
    path = tmp_path / "upload"
    with av.open(str(whole)) as source, av.open(str(path), "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for number, packet in enumerate(source.demux(source.streams.audio[0])):
            if packet.dts is not None and number not in (8, 9):
                packet.stream = stream
                target.mux(packet)
    audio_CN = read_audio(path, name="first_audio", max_seconds=60).samples_CN
    assert audio_CN.shape == samples_CN.shape
    assert correlation(audio_CN[:, RATE:], samples_CN[:, RATE:]) > 0.99
    assert 0.02 < np.mean(audio_CN == 0) < 0.2


@pytest.mark.parametrize("offset", [0, 1 << 40, (1 << 63) - 1])
def test_false_seek_table_of_a_flac_file_changes_nothing(tmp_path: Path, offset: int) -> None:
    samples_CN = tones(44100, 1)
    path = encoded(tmp_path / "upload", samples_CN, 44100, codec="flac", form="flac")
    intact_CN = read_audio(path, name="first_audio", max_seconds=60).samples_CN
    data = path.read_bytes()
    points = b"".join(
        sample.to_bytes(8, "big") + offset.to_bytes(8, "big") + (4096).to_bytes(2, "big")
        for sample in (0, 5, 5, 1 << 35)
    )
    table = bytes([3]) + len(points).to_bytes(3, "big") + points
    end_of_stream_info = 4 + 4 + 34
    header = data[:4] + bytes([data[4] & 0x7F]) + data[5:end_of_stream_info]
    rest = data[end_of_stream_info:] if not data[4] & 0x80 else bytes([0x81, 0, 0, 0]) + data[end_of_stream_info:]
    path.write_bytes(header + table + rest)
    for start in (0.0, 0.7):
        part_CN = read_audio(path, name="first_audio", start=start, max_seconds=60).samples_CN
        np.testing.assert_array_equal(part_CN, intact_CN[:, round(start * 44100) :])
