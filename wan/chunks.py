"""A long video as overlapping chunks."""

from dataclasses import dataclass

from wan.types import TEMPORAL_STRIDE, whole_latents


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Frames [start, stop) of the timeline; the first `overlap` repeat the chunk before, the next `fresh` are new."""

    index: int
    start: int
    stop: int
    overlap: int
    fresh: int


def plan_chunks(length: int, frame_num: int, motion_frame: int) -> list[Chunk]:
    """Chunks of `frame_num` frames, each beginning with the last `motion_frame` of the one before, whose fresh
    frames together are exactly `length`. The last chunk is computed whole and cut."""
    assert length > 0, length
    chunks: list[Chunk] = []
    covered = 0
    while covered < length:
        overlap = motion_frame if chunks else 0
        start = covered - overlap
        fresh = min(frame_num - overlap, length - covered)
        chunks.append(Chunk(index=len(chunks), start=start, stop=start + frame_num, overlap=overlap, fresh=fresh))
        covered += fresh
    return chunks


def fit_chunk(length: int, frame_num: int, motion_frame: int) -> tuple[int, int]:
    """(frame_num, motion_frame) for a video of `length` frames: one that is shorter than a chunk is made in the
    smallest chunk of 4n + 1 frames that holds it, at least two latent frames."""
    frame_num = min(frame_num, max(whole_latents(length), TEMPORAL_STRIDE + 1))
    return frame_num, min(motion_frame, frame_num - TEMPORAL_STRIDE)
