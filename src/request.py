"""The media of a request, read and validated: image or video, person masks, voices.

Every InputError is raised here, before any network runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from PIL import Image

from src.audio_analysis.timeline import Mode, Timeline, count_frames, mix
from src.errors import InputError
from src.media.audio.audio import Audio, silence_like
from src.media.audio.read import read_audio
from src.media.file_type import local_path, probe
from src.media.image import KINDS, read_image
from src.media.persons.masks import PersonMasks, person_masks
from src.media.rates import FPS
from src.media.video.reader import VideoReader
from src.media.video.stream import KINDS as VIDEO_KINDS

# Source separation keeps the length of a recording to within a packet or two.
CONDITIONING_TOLERANCE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """Limits set by the operator: seconds of audio and video, and whether requests may name local files.

    `video_unsupported` is the error message for a video source if the loaded model supports none, else empty.
    """

    max_seconds: float
    local_files: bool = False
    video_unsupported: str = ""

    @property
    def max_frames(self) -> int:
        """The longest output video, in frames."""
        return round(self.max_seconds * FPS)

    def __str__(self) -> str:
        return f"{self.max_frames:,} frames ({self.max_seconds:g} s, MAX_SECONDS)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawInputs:
    """The predictor's inputs that concern media, under the predictor's names."""

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
    """Decoded inputs of a request.

    `image` is the first frame if the source is a `video`. Without `person_masks` the persons are the image's halves.
    The timeline's soundtrack lasts exactly `num_frames` of the output video, its waveforms at least that long.
    """

    image: Image.Image
    video: VideoReader | None
    person_masks: PersonMasks | None
    timeline: Timeline
    num_frames: int

    def close(self) -> None:
        """Close the video file."""
        if self.video is not None:
            self.video.close()


def load_inputs(raw: RawInputs, limits: MediaLimits) -> MediaInputs:
    """Read all files, cheap checks first. Raises InputError naming the input, its value and what is allowed."""
    if raw.num_frames is not None and not 1 <= raw.num_frames <= limits.max_frames:
        raise InputError(f"num_frames is {raw.num_frames:,.12g}; 1 to {limits} are allowed")
    voices = read_voices(raw, limits)
    conditioning = read_conditioning_audio(voices, raw, limits)
    image, video = read_source(raw, limits)
    mask_paths = [local_path(path, name="person_masks", allowed=limits.local_files) for path in raw.person_masks]
    masks = person_masks(raw.person_boxes, mask_paths, width=image.width, height=image.height, num_voices=len(voices))
    mode = cast(Mode, raw.audio_mode)
    if masks is not None and len(voices) == 1:
        silence = silence_like(voices[0])
        voices, conditioning, mode = [*voices, silence], [*conditioning, silence], "para"
    check_length(voices, mode, raw, limits)
    num_frames = count_frames(voices, mode) if raw.num_frames is None else raw.num_frames
    timeline = mix(voices, mode, conditioning=conditioning, num_frames=num_frames)
    return MediaInputs(image=image, video=video, person_masks=masks, timeline=timeline, num_frames=num_frames)


def read_source(raw: RawInputs, limits: MediaLimits) -> tuple[Image.Image, VideoReader | None]:
    """The image, or the first frame of a video and its reader. An animated image is a video where those are allowed."""
    path = local_path(raw.image, name="image", allowed=limits.local_files)
    file = probe(path, name="image")
    is_video = file.video_container is not None or (file.animation_container and not limits.video_unsupported)
    if not is_video:
        return read_image(file, kinds=KINDS if limits.video_unsupported else f"{KINDS}, or {VIDEO_KINDS},"), None
    if limits.video_unsupported:
        raise InputError(limits.video_unsupported)
    video = VideoReader(file, max_seconds=limits.max_seconds)
    return video.frame_at(0), video


def read_voices(raw: RawInputs, limits: MediaLimits) -> list[Audio]:
    """The selected part of each voice."""
    files = {"first_audio": raw.first_audio, "second_audio": raw.second_audio}
    return [read_audio_input(value, name, raw, limits) for name, value in files.items() if value is not None]


def read_audio_input(value: Path | str, name: str, raw: RawInputs, limits: MediaLimits) -> Audio:
    """The part of an audio file that `audio_start` and `audio_duration` select."""
    return read_audio(
        local_path(value, name=name, allowed=limits.local_files),
        name=name,
        start=raw.audio_start,
        duration=raw.audio_duration,
        max_seconds=limits.max_seconds,
    )


def read_conditioning_audio(voices: Sequence[Audio], raw: RawInputs, limits: MediaLimits) -> list[Audio]:
    """The audio that drives each person's lips: `conditioning_audio` where present, else the voice itself."""
    files = raw.conditioning_audio
    if len(files) > len(voices):
        raise InputError(
            f"conditioning_audio has {len(files)} files, but there are {len(voices)} voices; at most one for each of "
            "first_audio and second_audio is allowed, in that order"
        )
    conditioning = [
        read_audio_input(file, f"conditioning_audio (number {n})", raw, limits) for n, file in enumerate(files, 1)
    ]
    for name, audio, voice in zip(("first_audio", "second_audio"), conditioning, voices, strict=False):
        if abs(audio.seconds - voice.seconds) > CONDITIONING_TOLERANCE:
            raise InputError(
                f"conditioning_audio lasts {audio.seconds:.2f} s and {name} {voice.seconds:.2f} s; their lengths must "
                f"be equal to within {CONDITIONING_TOLERANCE} s"
            )
    return [*conditioning, *voices[len(conditioning) :]]


def check_length(voices: Sequence[Audio], mode: str, raw: RawInputs, limits: MediaLimits) -> None:
    """Raises InputError if the voices together exceed the limit.

    A smaller `num_frames` makes no difference: the speech encoder processes the whole waveforms.
    """
    seconds = [voice.seconds for voice in voices]
    total = sum(seconds) if mode == "add" else max(seconds)
    if round(total * FPS) > limits.max_frames:
        raise InputError(
            f"first_audio ({seconds[0]:.2f} s) and second_audio ({seconds[-1]:.2f} s) one after the other last "
            f"{total:.2f} s; at most {limits} are allowed; audio_mode para, audio_start and audio_duration shorten it"
        )
