"""What a request brings, read and checked: the picture, who is where in it, who says what and when.

Every InputError here comes before any network runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from PIL import Image

from src.audio_analysis.timeline import Mode, Timeline, arrange, fit
from src.media.boxes import Rectangle, parse_person_boxes
from src.media.errors import InputError
from src.media.picture import read_picture
from src.media.rates import FPS
from src.media.sound import Sound, read_sound, silence_like
from src.media.upload import local_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the operator allows: seconds of sound and video, and whether requests may name local files."""

    max_seconds: float
    local_files: bool = False

    @property
    def max_frames(self) -> int:
        """The longest video, in frames."""
        return round(self.max_seconds * FPS)

    def __str__(self) -> str:
        return f"{self.max_frames:,} frames ({self.max_seconds:g} s, MAX_SECONDS)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """The inputs of a request that are about its files, named as the predictor names them."""

    image: Path | str
    first_audio: Path | str
    second_audio: Path | str | None
    num_frames: int | None
    person_boxes: str | None
    audio_mode: str
    audio_start: float
    audio_duration: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A picture, two rectangles in it unless its halves are meant, a timeline, and the length in frames of video.

    The timeline's soundtrack lasts exactly that long, its tracks at least.
    """

    picture: Image.Image
    rectangles: tuple[Rectangle, Rectangle] | None
    timeline: Timeline
    frames: int


def gather(uploads: Uploads, limits: Limits) -> Material:
    """Read everything, cheap checks first. InputError names the input, its value and what is allowed."""
    if uploads.num_frames is not None and not 1 <= uploads.num_frames <= limits.max_frames:
        raise InputError(f"num_frames is {uploads.num_frames:,.12g}; 1 to {limits} are allowed")
    voices = read_voices(uploads, limits)
    picture = read_picture(local_path(uploads.image, name="image", allowed=limits.local_files))
    rectangles = parse_person_boxes(
        uploads.person_boxes, width=picture.width, height=picture.height, voices=len(voices)
    )
    mode = uploads.audio_mode
    if rectangles is not None and len(voices) == 1:
        voices, mode = [*voices, silence_like(voices[0])], "para"
    check_length(voices, mode, uploads, limits)
    timeline = arrange(voices, cast(Mode, mode))
    frames = timeline.frames if uploads.num_frames is None else uploads.num_frames
    return Material(picture=picture, rectangles=rectangles, timeline=fit(timeline, frames), frames=frames)


def read_voices(uploads: Uploads, limits: Limits) -> list[Sound]:
    """The used part of each sound file."""
    files = {"first_audio": uploads.first_audio, "second_audio": uploads.second_audio}
    return [
        read_sound(
            local_path(value, name=name, allowed=limits.local_files),
            name=name,
            start=uploads.audio_start,
            duration=uploads.audio_duration,
            max_seconds=limits.max_seconds,
        )
        for name, value in files.items()
        if value is not None
    ]


def check_length(voices: Sequence[Sound], mode: str, uploads: Uploads, limits: Limits) -> None:
    """InputError when the voices together last longer than is allowed; a shorter `num_frames` does not help, since
    the speech encoder hears the whole tracks."""
    seconds = [voice.seconds for voice in voices]
    total = sum(seconds) if mode == "add" else max(seconds)
    if round(total * FPS) > limits.max_frames:
        raise InputError(
            f"first_audio ({seconds[0]:.2f} s) and second_audio ({seconds[-1]:.2f} s) one after the other last "
            f"{total:.2f} s; at most {limits} are allowed; audio_mode para, audio_start and audio_duration shorten it"
        )
