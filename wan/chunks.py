"""A long video as overlapping chunks."""

from dataclasses import dataclass


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
        chunks.append(
            Chunk(index=len(chunks), start=start, stop=start + frame_num, overlap=overlap, fresh=fresh)
        )
        covered += fresh
    return chunks
