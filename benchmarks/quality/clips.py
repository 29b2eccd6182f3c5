"""Test clips of the quality benchmarks: kinds of requests (rows), and clips of a row, drawn from the held-out split.

Faces are numbered in the order of the scene. Shapes: F frames, N samples at 16 kHz.
"""

import shutil
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from src.audio_analysis.timeline import Mode, mix
from src.media.audio.audio import Audio
from src.media.rates import FPS, SAMPLES_PER_FRAME, SPEECH_RATE
from training.editions import EDITION
from training.mouths import MouthCurve, opening_curve, shape_curve
from training.scenes import Scene, render, render_still, sample_scene, show_only
from training.voices import Voice, sample_voice
from wan.configs import WAN_CONFIGS

SPLIT = "held-out"
CHUNK, MOTION = WAN_CONFIGS["multitalk-puppet"].frame_num, WAN_CONFIGS["multitalk-puppet"].motion_frame
VOICE_KINDS = ("synthetic", "espeak") if shutil.which("espeak-ng") else ("synthetic",)
"""Kinds of voices available on this machine; recorded in results."""
_MAX_SKIP_S = 1.0
"""Maximum seconds cut from the beginning of a voice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of request, a row of the result tables.

    `boxes`: "default" (no person boxes), "given" (those of the faces), or "swapped" (given, and the first voice belongs
    to the second face). `audio`: "voices", or "none" for silence. `conditioning`: "multitalk", "infinitetalk", or
    "film": InfiniteTalk's, from the renderer's frames with closed mouths instead of from one image.
    """

    name: str
    persons: int
    mode: Mode = "para"
    aspect: str = "wide"
    boxes: str = "default"
    num_chunks: int = 1
    audio: str = "voices"
    conditioning: str = "multitalk"

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return CHUNK + (self.num_chunks - 1) * (CHUNK - MOTION)

    @property
    def face_of_voice(self) -> tuple[int, ...]:
        """Index of the face of each voice of the request."""
        return (1, 0) if self.boxes == "swapped" else tuple(range(self.persons))


ROWS = (
    Row(name="one", persons=1),
    Row(name="one square", persons=1, aspect="square"),
    Row(name="one upright", persons=1, aspect="upright"),
    Row(name="one, 5 chunks", persons=1, num_chunks=5),
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
    Row(name="two add, 5 chunks", persons=2, mode="add", num_chunks=5),
    Row(name="two para, 5 chunks", persons=2, num_chunks=5),
    Row(name="one, 20 chunks", persons=1, num_chunks=20),
    Row(name="two para, 20 chunks", persons=2, num_chunks=20),
    Row(name="InfiniteTalk, two add, 5 chunks", persons=2, mode="add", num_chunks=5, conditioning="infinitetalk"),
    Row(name="InfiniteTalk, two para, 20 chunks", persons=2, num_chunks=20, conditioning="infinitetalk"),
    Row(name="InfiniteTalk from a film, two para, 5 chunks", persons=2, num_chunks=5, conditioning="film"),
    Row(name="two silent", persons=2, audio="none"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A scene, its audio, and the expected mouth movement; tuples and lists are by face.

    `waveforms` (N): loudness-normalized and padded on the timeline. `openings` and `shapes` (F): expected mouth curves,
    from the clean voices. `active` (F): frames in which the face's recording plays.
    """

    row: Row
    scene: Scene
    waveforms: tuple[NDArray[np.float32], ...]
    openings: list[MouthCurve]
    shapes: list[MouthCurve]
    active: list[NDArray[np.bool_]]

    def ground_truth(self) -> NDArray[np.uint8]:
        """Frames drawn by the renderer, F x H x W x 3; the first one is `image()`."""
        frames = render(self.scene, self.openings, self.shapes)
        frames[0] = self.image()
        return frames

    def image(self) -> NDArray[np.uint8]:
        """Input image of the model, H x W x 3: the first frame with closed mouths."""
        return render_still(self.scene)

    def silent_film(self) -> NDArray[np.uint8]:
        """The scene's frames with closed mouths, F x H x W x 3: the input video of a row with a film."""
        closed = [np.zeros(self.row.num_frames) for _ in self.openings]
        return render(self.scene, closed, closed)


def draw_clip(row: Row, seed: int, index: int) -> Clip:
    """Clip `index` of a row, deterministic in row and seed; kinds of voices alternate."""
    rng = np.random.default_rng([seed, index, *row.name.encode()])
    scene = sample_scene(rng, row.persons, EDITION.sizes[row.aspect], row.num_frames, SPLIT, EDITION.drawing)
    kinds = [VOICE_KINDS[(index + person) % len(VOICE_KINDS)] for person in range(row.persons)]
    voices = [_draw_speech(rng, seconds, kind) for seconds, kind in zip(_voice_seconds(rng, row), kinds, strict=True)]
    if row.audio == "none":
        voices = [Voice(clean=np.zeros_like(voice.clean), noisy=np.zeros_like(voice.noisy)) for voice in voices]
    mixed = _mix_by_face([voice.noisy for voice in voices], row)
    clean = _mix_by_face([voice.clean for voice in voices], row)
    return Clip(
        row=row,
        scene=scene,
        waveforms=tuple(mixed),
        openings=[opening_curve(waveform)[: row.num_frames] for waveform in clean],
        shapes=[shape_curve(waveform)[: row.num_frames] for waveform in clean],
        active=_active_frames([len(voice.clean) for voice in voices], row),
    )


def with_bare_faces(clip: Clip, prompt: str, phrase: str = "") -> Clip:
    """The same clip with another prompt, without anything that covers eyes and brows; it shows at most one phrase."""
    people = tuple(replace(person, hair="none", hat="none", glasses="none") for person in clip.scene.characters)
    return replace(clip, scene=show_only(replace(clip.scene, characters=people, prompt=prompt), phrase))


def _draw_speech(rng: np.random.Generator, seconds: float, kind: str) -> Voice:
    """A random section of a longer voice, so that not every clip starts with the start of a sentence."""
    skipped = rng.uniform(0, _MAX_SKIP_S)
    voice = sample_voice(rng, seconds + skipped, SPLIT, kind)
    start, count = round(skipped * SPEECH_RATE), round(seconds * SPEECH_RATE)
    clean, mixed = (np.pad(samples_N[start:], (0, count))[:count] for samples_N in (voice.clean, voice.noisy))
    return Voice(clean=clean, noisy=mixed)


def _voice_seconds(rng: np.random.Generator, row: Row) -> list[float]:
    """Seconds of each voice: one fills the clip, sequential voices share it, a parallel one may end early."""
    total = row.num_frames / FPS
    if row.persons == 1:
        return [total]
    if row.mode == "add":
        turn = round(row.num_frames * rng.uniform(0.4, 0.6)) / FPS
        first, second = turn, total - turn
        return [first, second] if row.face_of_voice == (0, 1) else [second, first]
    shorter = round(row.num_frames * rng.uniform(0.6, 1.0)) / FPS
    return [total, shorter] if rng.random() < 0.5 else [shorter, total]


def _mix_by_face(samples: list[NDArray[np.float32]], row: Row) -> list[NDArray[np.float32]]:
    """Normalized and padded waveforms by face, mixed as the generator mixes them; silence stays silence."""
    if not any(samples_N.any() for samples_N in samples):
        return [np.zeros(row.num_frames * SAMPLES_PER_FRAME, np.float32) for _ in samples]
    voices = [Audio(samples_CN=samples[face][None], sample_rate=SPEECH_RATE) for face in row.face_of_voice]
    waveforms = mix(voices, row.mode, num_frames=row.num_frames).waveforms
    return [waveforms[row.face_of_voice.index(face)] for face in range(row.persons)]


def _active_frames(lengths: list[int], row: Row) -> list[NDArray[np.bool_]]:
    """By face, the frames in which its recording plays throughout; the voices have `lengths` samples."""
    start, active = 0, [np.zeros(row.num_frames, bool) for _ in lengths]
    for face in row.face_of_voice:
        stop = start + lengths[face]
        active[face][-(-start // SAMPLES_PER_FRAME) : stop // SAMPLES_PER_FRAME] = True
        start = stop if row.mode == "add" else 0
    return active
