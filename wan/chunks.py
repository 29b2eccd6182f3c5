"""A long video as overlapping chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from wan.types import TEMPORAL_STRIDE, whole_latents


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Frames [start, stop) of the timeline; the first `overlap` repeat the chunk before, the next `fresh` are new.

    Where a scene begins `overlap` is 0.
    """

    index: int
    start: int
    stop: int
    overlap: int
    fresh: int


def plan_chunks(length: int, frame_num: int, motion_frame: int, cuts: Sequence[int] = ()) -> list[Chunk]:
    """Chunks of `frame_num` frames, each beginning with the last `motion_frame` of the one before, whose fresh
    frames together are exactly `length`. A scene begins with a chunk of its own at each of the ascending `cuts`; the
    last chunk of a scene is computed whole and cut."""
    assert length > 0, length
    chunks: list[Chunk] = []
    for first, last in pairwise((0, *(cut for cut in cuts if cut < length), length)):
        covered = first
        while covered < last:
            overlap = motion_frame if covered > first else 0
            start = covered - overlap
            fresh = min(frame_num - overlap, last - covered)
            chunks.append(Chunk(index=len(chunks), start=start, stop=start + frame_num, overlap=overlap, fresh=fresh))
            covered += fresh
    return chunks


def fit_chunk(length: int, frame_num: int, motion_frame: int) -> tuple[int, int]:
    """(frame_num, motion_frame) for a video of `length` frames: one that is shorter than a chunk is made in the
    smallest chunk of 4n + 1 frames that holds it, at least two latent frames."""
    frame_num = min(frame_num, max(whole_latents(length), TEMPORAL_STRIDE + 1))
    return frame_num, min(motion_frame, frame_num - TEMPORAL_STRIDE)
