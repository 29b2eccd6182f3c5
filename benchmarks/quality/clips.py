"""What lips are measured on: rows, each a kind of request, and clips of a row, drawn from the held-out split.

Faces are numbered as the scene has them. Shapes: F frames, N samples of 16 kHz.
"""

import shutil
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from src.audio_analysis.timeline import Mode, mix, pad_to_frames
from src.media.audio.audio import Audio
from src.media.rates import FPS, SAMPLES_PER_FRAME, SPEECH_RATE
from training.mouths import Track, opening_track, shape_track
from training.scenes import SMALL, Scene, draw_scene, render
from training.voices import Voice, draw_voice
from wan.configs import WAN_CONFIGS

SPLIT = "held-out"
CHUNK, MOTION = WAN_CONFIGS["multitalk-puppet"].frame_num, WAN_CONFIGS["multitalk-puppet"].motion_frame
KINDS = ("synthetic", "espeak") if shutil.which("espeak-ng") else ("synthetic",)
"""Voices that can be had here; results say which they were."""
_SKIPPED = 1.0
"""Seconds that a voice may have spoken before a clip begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of request.

    `boxes`: "default" (none given), "given" (the faces'), or "swapped" (given, and the first voice is the second
    face's). `sound` "none": nobody speaks. A row of several chunks is one stream.
    """

    name: str
    persons: int
    mode: Mode = "para"
    aspect: str = "wide"
    boxes: str = "default"
    chunks: int = 1
    sound: str = "voices"

    @property
    def frames(self) -> int:
        """Length of a clip."""
        return CHUNK + (self.chunks - 1) * (CHUNK - MOTION)

    @property
    def order(self) -> tuple[int, ...]:
        """Which face each voice of the request belongs to."""
        return (1, 0) if self.boxes == "swapped" else tuple(range(self.persons))


ROWS = (
    Row(name="one", persons=1),
    Row(name="one square", persons=1, aspect="square"),
    Row(name="one upright", persons=1, aspect="upright"),
    Row(name="one, 5 chunks", persons=1, chunks=5),
    Row(name="two add", persons=2, mode="add"),
    Row(name="two para", persons=2),
    Row(name="two add, boxes", persons=2, mode="add", boxes="given"),
    Row(name="two para, boxes", persons=2, boxes="given"),
    Row(name="two add, swapped", persons=2, mode="add", boxes="swapped"),
    Row(name="two para, swapped", persons=2, boxes="swapped"),
    Row(name="two add square", persons=2, mode="add", aspect="square"),
    Row(name="two para square", persons=2, aspect="square"),
    Row(name="two add upright, boxes", persons=2, mode="add", aspect="upright", boxes="given"),
    Row(name="two para upright, boxes", persons=2, aspect="upright", boxes="given"),
    Row(name="two add, 5 chunks", persons=2, mode="add", chunks=5),
    Row(name="two para, 5 chunks", persons=2, chunks=5),
    Row(name="two silent", persons=2, sound="none"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A scene, what its faces should do, and what is heard; tuples and lists go by face.

    `tracks` (N,) are loudness-normalised and padded on the timeline; `openings` and `shapes`, F values each, come from
    the clean voices, padded alike; `floors` say where each recording lies.
    """

    row: Row
    scene: Scene
    tracks: tuple[NDArray[np.float32], ...]
    openings: list[Track]
    shapes: list[Track]
    floors: list[NDArray[np.bool_]]

    def truth(self) -> NDArray[np.uint8]:
        """The renderer's own frames, F x H x W x 3; the first one is the picture."""
        frames = render(self.scene, self.openings, self.shapes)
        frames[0] = self.picture()
        return frames

    def picture(self) -> NDArray[np.uint8]:
        """What the model is given, H x W x 3: the first frame, all mouths closed."""
        closed = [np.zeros(1) for _ in self.openings]
        return render(self.scene, closed, closed)[0]


def draw_clip(row: Row, seed: int, index: int) -> Clip:
    """Clip `index` of a row; a row and a seed always give the same clips. Kinds of voices take turns."""
    rng = np.random.default_rng([seed, index, *row.name.encode()])
    scene = draw_scene(rng, row.persons, SMALL[row.aspect], row.frames, SPLIT)
    kinds = [KINDS[(index + person) % len(KINDS)] for person in range(row.persons)]
    voices = [_speak(rng, seconds, kind) for seconds, kind in zip(_lengths(rng, row), kinds, strict=True)]
    if row.sound == "none":
        voices = [Voice(clean=np.zeros_like(voice.clean), mixed=np.zeros_like(voice.mixed)) for voice in voices]
    heard = _laid_out([voice.mixed for voice in voices], row)
    clean = _laid_out([voice.clean for voice in voices], row)
    floors = _laid_out([np.ones_like(voice.clean) for voice in voices], row)
    return Clip(
        row=row,
        scene=scene,
        tracks=tuple(heard),
        openings=[opening_track(track)[: row.frames] for track in clean],
        shapes=[shape_track(track)[: row.frames] for track in clean],
        floors=[_by_frame(track)[: row.frames] for track in floors],
    )


def plain(clip: Clip, prompt: str, *, eyes_closed: bool = False, brows_raised: bool = False) -> Clip:
    """The same clip with bare faces, whose eyes and brows nothing hides, and another prompt."""
    people = tuple(replace(person, hair="none", hat="none", glasses="none") for person in clip.scene.people)
    bare = replace(clip.scene, people=people, prompt=prompt)
    return replace(clip, scene=replace(bare, eyes_closed=eyes_closed, brows_raised=brows_raised))


def _speak(rng: np.random.Generator, seconds: float, kind: str) -> Voice:
    """A voice cut out of a longer one, so that clips do not all begin with the beginning of a sentence."""
    skipped = rng.uniform(0, _SKIPPED)
    voice = draw_voice(rng, seconds + skipped, SPLIT, kind)
    first, count = round(skipped * SPEECH_RATE), round(seconds * SPEECH_RATE)
    clean, mixed = (np.pad(sound[first:], (0, count))[:count] for sound in (voice.clean, voice.mixed))
    return Voice(clean=clean, mixed=mixed)


def _lengths(rng: np.random.Generator, row: Row) -> list[float]:
    """Seconds of each voice: alone it fills the clip, in turn they share it, together one may end early."""
    total = row.frames / FPS
    if row.persons == 1:
        return [total]
    if row.mode == "add":
        turn = round(row.frames * rng.uniform(0.4, 0.6)) / FPS
        first, second = turn, total - turn
        return [first, second] if row.order == (0, 1) else [second, first]
    shorter = round(row.frames * rng.uniform(0.6, 1.0)) / FPS
    return [total, shorter] if rng.random() < 0.5 else [shorter, total]


def _laid_out(sounds: list[NDArray[np.float32]], row: Row) -> list[NDArray[np.float32]]:
    """Sounds by face as the predictor lays them out, normalised and padded, by face again; silence stays silence."""
    if not any(sound.any() for sound in sounds):
        return [np.zeros(row.frames * SAMPLES_PER_FRAME, np.float32) for _ in sounds]
    voices = [Audio(samples_CN=sounds[face][None], sample_rate=SPEECH_RATE) for face in row.order]
    tracks = pad_to_frames(mix(voices, row.mode), row.frames).waveforms
    return [tracks[row.order.index(face)] for face in range(row.persons)]


def _by_frame(track: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which frames are filled."""
    count = len(track) // SAMPLES_PER_FRAME
    return (track[: count * SAMPLES_PER_FRAME].reshape(count, -1) != 0).all(axis=1)
