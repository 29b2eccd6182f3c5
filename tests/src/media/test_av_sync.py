"""Audio and video of one file, read by their two readers, are in sync to 20 ms, whatever its timestamps are."""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

from src.media.audio.read import read_audio
from src.media.file_type import probe
from src.media.video.frame_reader import FrameReader

RATE = 48_000
FPS = 25
SECONDS = 3.0
FLASH = 2.0
TOLERANCE = 0.02


class Film(NamedTuple):
    """Where video and audio begin in seconds, and a gap of the audio; FLASH and tone are at the same time."""

    video: float = 0.0
    audio: float = 0.0
    gap: tuple[float, float] = (0.0, 0.0)


FILMS = {
    "plain": Film(),
    "late audio": Film(audio=0.7),
    "audio before the video": Film(video=0.048),
    "audio long before the video": Film(video=0.48),
    "both late": Film(video=0.52, audio=0.9),
    "cut at the start": Film(video=-0.4, audio=-0.4),
    "gap": Film(gap=(0.5, 1.5)),
    "late audio with a gap": Film(video=0.04, audio=0.6, gap=(1.0, 1.31)),
}
CODECS = {
    "film.mp4": ("libx264", "aac"),
    "film.mov": ("libx264", "alac"),
    "film.mkv": ("libx264", "aac"),
    "film.webm": ("libvpx", "opus"),
}
CODECS |= {"fragmented.mp4": ("libx264", "aac"), "flac.mkv": ("libx264", "flac")}


def write_film(path: Path, film: Film, video_codec: str, audio_codec: str) -> Path:
    """White from FLASH on, with a loud tone from the same moment on and a soft one before."""
    fragmented = {"movflags": "frag_keyframe+empty_moov+delay_moov"} if path.name.startswith("fragmented") else {}
    with av.open(str(path), "w", options=fragmented) as container:
        video = container.add_stream(video_codec, rate=FPS)
        assert isinstance(video, av.VideoStream)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("libopus" if audio_codec == "opus" else audio_codec, rate=RATE, layout="mono")
        assert isinstance(audio, av.AudioStream)
        white_at = next(time for time in _times(film) if time >= FLASH)
        for number, time in enumerate(_times(film)):
            image = np.full((64, 64, 3), 255 if time >= white_at else 0, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(film.video * 1000) + 40 * number, Fraction(1, 1000)
            container.mux(video.encode(frame))
        for first in range(round(film.audio * RATE), round(SECONDS * RATE), 960):
            if film.gap[0] <= first / RATE < film.gap[1]:
                continue
            time_N = (first + np.arange(960)) / RATE
            tone_1N = (np.sin(2 * np.pi * 500 * time_N) * np.where(time_N >= white_at, 0.8, 0.05))[None]
            sound = av.AudioFrame.from_ndarray((tone_1N * 32767).astype(np.int16), format="s16", layout="mono")
            sound.rate, sound.pts, sound.time_base = RATE, first, Fraction(1, RATE)
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def _times(film: Film) -> list[float]:
    return [film.video + number / FPS for number in range(round((SECONDS - film.video) * FPS))]


def flash_seconds(path: Path) -> float:
    video = FrameReader(probe(path, name="image"), max_seconds=600)
    return next(index for index in range(200) if np.asarray(video.frame_at(index)).mean() > 127) / FPS


def tone_seconds(path: Path) -> float:
    audio = read_audio(path, name="first_audio", max_seconds=600)
    return float(np.argmax(np.abs(audio.samples_CN).max(0) > 0.3)) / audio.sample_rate


# AVI has no timestamps, and an MPEG transport stream none below zero.
OTHER_KINDS = [("ts", "libx264", "aac", name) for name in FILMS if name != "cut at the start"]
OTHER_KINDS += [("flv", "flv", "aac", name) for name in FILMS if name != "cut at the start"]
OTHER_KINDS += [("avi", "mpeg4", "libmp3lame", "plain"), ("avi", "mpeg4", "pcm_s16le", "plain")]


def check_sync(path: Path) -> None:
    flash, tone = flash_seconds(path), tone_seconds(path)
    assert tone == pytest.approx(flash, abs=TOLERANCE), f"picture at {flash:.3f} s, sound at {tone:.3f} s"


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("name", FILMS)
def test_flash_and_tone_come_together(tmp_path: Path, kind: str, name: str) -> None:
    check_sync(write_film(tmp_path / kind, FILMS[name], *CODECS[kind]))


@pytest.mark.parametrize(("kind", "video_codec", "audio_codec", "name"), OTHER_KINDS)
def test_other_containers(tmp_path: Path, kind: str, video_codec: str, audio_codec: str, name: str) -> None:
    check_sync(write_film(tmp_path / f"film.{kind}", FILMS[name], video_codec, audio_codec))
