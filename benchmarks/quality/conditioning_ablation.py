"""What each thing that the model is told does: a clip made again without it, and prompts that can be seen.

Changes are relative: rms difference of two videos over rms difference of the video from its first frame.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.baseline.puppet import Puppet
from benchmarks.quality.clips import Clip, Row, draw_clip, plain
from benchmarks.quality.face_reader import Video, brow_darkness, eye_whiteness
from benchmarks.quality.metrics import finite, read
from benchmarks.quality.sync_metrics import own_correlation
from training.mouths import Track
from training.scenes import face_boxes
from wan.conditioning.speakers import BoxRegion
from wan.sampling.options import SamplingOptions

HEARD = Row(name="two para", persons=2)
SEEN = Row(name="one", persons=1)
NEUTRAL = "A person talking."
NO_PROMPT = "."
"""As little as a request may say."""
_STAGED = 10
"""From this frame on a face has taken on what the prompt says."""

Reader = Callable[[Video, BoxRegion], Track]


def ablate(puppet: Puppet, options: SamplingOptions, clips: int, seed: int) -> dict[str, Any]:
    """Relative change, and own correlation, without the prompt, CLIP's tokens, the sound; another seed beside."""
    drawn = [draw_clip(HEARD, seed, index) for index in range(clips)]
    whole = [puppet.take(clip, options).frames for clip in drawn]
    found = {"nothing": _effect(drawn, whole, whole)}
    without_prompt = [replace(clip, scene=replace(clip.scene, prompt=NO_PROMPT)) for clip in drawn]
    found["prompt"] = _effect(drawn, [puppet.take(clip, options).frames for clip in without_prompt], whole)
    with puppet.without_picture_tokens():
        found["picture tokens"] = _effect(drawn, [puppet.take(clip, options).frames for clip in drawn], whole)
    mute = [replace(clip, tracks=tuple(np.zeros_like(track) for track in clip.tracks)) for clip in drawn]
    found["sound"] = _effect(drawn, [puppet.take(clip, options).frames for clip in mute], whole)
    other = replace(options, seed=options.seed + 1)
    found["the seed (another one)"] = _effect(drawn, [puppet.take(clip, other).frames for clip in drawn], whole)
    return found


def prompts(puppet: Puppet, options: SamplingOptions, clips: int, seed: int) -> dict[str, Any]:
    """How white the eyes are, how dark the place of the brows, with a prompt and a neutral one; the renderer beside."""
    drawn = [plain(draw_clip(SEEN, seed, index), NEUTRAL) for index in range(clips)]
    closed = [plain(clip, "A person talking, eyes closed.", eyes_closed=True) for clip in drawn]
    raised = [plain(clip, "A person talking, eyebrows raised.", brows_raised=True) for clip in drawn]
    made = {"neutral": drawn, "eyes closed": closed, "eyebrows raised": raised}
    subjects = {
        "model": {name: [puppet.take(clip, options).frames for clip in these] for name, these in made.items()},
        "truth": {name: [clip.truth() for clip in these] for name, these in made.items()},
    }
    readers = {"eyes closed": eye_whiteness, "eyebrows raised": brow_darkness}
    return {
        name: {
            subject: {said: _settled(drawn, videos[said], reader) for said in ("neutral", name)}
            for subject, videos in subjects.items()
        }
        for name, reader in readers.items()
    }


def _effect(clips: Sequence[Clip], videos: Sequence[Video], whole: Sequence[Video]) -> dict[str, Any]:
    changes = [_rms(video, base) / max(_rms(base, base[:1]), 1e-6) for video, base in zip(videos, whole, strict=True)]
    readings = [reading for clip, video in zip(clips, videos, strict=True) for reading in read(clip, video)]
    return {"relative_change": float(np.mean(changes)), "own": finite(own_correlation(readings))}


def _rms(a: Video, b: Video) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


def _settled(clips: Sequence[Clip], videos: Sequence[Video], reader: Reader) -> float:
    """A reader's mean over clips, faces, and the median of the later frames (which blinks do not move)."""
    found = [
        np.median(reader(video, box)[_STAGED:])
        for clip, video in zip(clips, videos, strict=True)
        for box in face_boxes(clip.scene)
    ]
    return float(np.mean(found))
