"""What a request brings, read and checked: the picture, who is where in it, who says what and when.

Every InputError here comes before any network runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from PIL import Image

from src.audio_analysis.timeline import Mode, Timeline, mix, pad_to_frames
from src.media.audio.audio import Audio, read_audio, silence_like
from src.media.errors import InputError
from src.media.file_type import local_path, require_file
from src.media.image import KINDS, read_image
from src.media.persons.masks import PersonMasks, person_masks
from src.media.rates import FPS
from src.media.video.reader import VideoReader
from src.media.video.stream import KINDS as FILMS
from src.media.video.stream import is_video

# Programs that take a voice out of a mix leave its length to within a packet or two.
CONDITIONING_TOLERANCE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """What the operator allows: seconds of sound and video, and whether requests may name local files.

    `no_films` says why a video cannot be the source, where the loaded model cannot be shown one.
    """

    max_seconds: float
    local_files: bool = False
    no_films: str = ""

    @property
    def max_frames(self) -> int:
        """The longest video, in frames."""
        return round(self.max_seconds * FPS)

    def __str__(self) -> str:
        return f"{self.max_frames:,} frames ({self.max_seconds:g} s, MAX_SECONDS)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawInputs:
    """The inputs of a request that are about its files, named as the predictor names them."""

    image: Path | str
    first_audio: Path | str
    second_audio: Path | str | None
    num_frames: int | None
    person_boxes: str | None
    audio_mode: str
    audio_start: float
    audio_duration: float | None
    person_masks: Sequence[Path | str] = ()
    conditioning_audio: Sequence[Path | str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInputs:
    """A picture, who is where in it unless its halves are meant, a timeline, and the length in frames of video.

    With a film the picture is its first. The timeline's soundtrack lasts exactly that long, its tracks at least.
    """

    picture: Image.Image
    film: VideoReader | None
    people: PersonMasks | None
    timeline: Timeline
    frames: int

    def close(self) -> None:
        """Let go of the files."""
        if self.film is not None:
            self.film.close()


def load_inputs(uploads: RawInputs, limits: MediaLimits) -> MediaInputs:
    """Read everything, cheap checks first. InputError names the input, its value and what is allowed."""
    if uploads.num_frames is not None and not 1 <= uploads.num_frames <= limits.max_frames:
        raise InputError(f"num_frames is {uploads.num_frames:,.12g}; 1 to {limits} are allowed")
    voices = read_voices(uploads, limits)
    heard = read_conditioning_audio(voices, uploads, limits)
    picture, film = read_source(uploads, limits)
    masks = [local_path(path, name="person_masks", allowed=limits.local_files) for path in uploads.person_masks]
    people = person_masks(uploads.person_boxes, masks, width=picture.width, height=picture.height, voices=len(voices))
    mode = uploads.audio_mode
    if people is not None and len(voices) == 1:
        silence = silence_like(voices[0])
        voices, heard, mode = [*voices, silence], [*heard, silence], "para"
    check_length(voices, mode, uploads, limits)
    timeline = mix(voices, cast(Mode, mode), heard)
    frames = timeline.frames if uploads.num_frames is None else uploads.num_frames
    return MediaInputs(
        picture=picture, film=film, people=people, timeline=pad_to_frames(timeline, frames), frames=frames
    )


def read_source(uploads: RawInputs, limits: MediaLimits) -> tuple[Image.Image, VideoReader | None]:
    """The picture, or the first one of a film, and the film."""
    path = local_path(uploads.image, name="image", allowed=limits.local_files)
    require_file(path, name="image")
    if not is_video(path):
        return read_image(path, kinds=KINDS if limits.no_films else f"{KINDS}, or {FILMS},"), None
    if limits.no_films:
        raise InputError(limits.no_films)
    film = VideoReader(path, seconds=limits.max_seconds)
    return film.frame(0), film


def read_voices(uploads: RawInputs, limits: MediaLimits) -> list[Audio]:
    """The used part of each sound file."""
    files = {"first_audio": uploads.first_audio, "second_audio": uploads.second_audio}
    return [read_audio_input(value, name, uploads, limits) for name, value in files.items() if value is not None]


def read_audio_input(value: Path | str, name: str, uploads: RawInputs, limits: MediaLimits) -> Audio:
    """The used part of a sound file."""
    return read_audio(
        local_path(value, name=name, allowed=limits.local_files),
        name=name,
        start=uploads.audio_start,
        duration=uploads.audio_duration,
        max_seconds=limits.max_seconds,
    )


def read_conditioning_audio(voices: Sequence[Audio], uploads: RawInputs, limits: MediaLimits) -> list[Audio]:
    """What drives the lips of each person: the conditioning sound, or else the voice itself."""
    files = uploads.conditioning_audio
    if len(files) > len(voices):
        raise InputError(
            f"conditioning_audio has {len(files)} files and there is sound of {len(voices)}; at most one for each of "
            "first_audio and second_audio is allowed, in that order"
        )
    heard = [
        read_audio_input(file, f"conditioning_audio (number {n})", uploads, limits) for n, file in enumerate(files, 1)
    ]
    for name, vocals, voice in zip(("first_audio", "second_audio"), heard, voices, strict=False):
        if abs(vocals.seconds - voice.seconds) > CONDITIONING_TOLERANCE:
            raise InputError(
                f"conditioning_audio lasts {vocals.seconds:.2f} s and {name} {voice.seconds:.2f} s; they must be "
                f"equally long, to {CONDITIONING_TOLERANCE} s"
            )
    return [*heard, *voices[len(heard) :]]


def check_length(voices: Sequence[Audio], mode: str, uploads: RawInputs, limits: MediaLimits) -> None:
    """InputError when the voices together last longer than is allowed; a shorter `num_frames` does not help, since
    the speech encoder hears the whole tracks."""
    seconds = [voice.seconds for voice in voices]
    total = sum(seconds) if mode == "add" else max(seconds)
    if round(total * FPS) > limits.max_frames:
        raise InputError(
            f"first_audio ({seconds[0]:.2f} s) and second_audio ({seconds[-1]:.2f} s) one after the other last "
            f"{total:.2f} s; at most {limits} are allowed; audio_mode para, audio_start and audio_duration shorten it"
        )
