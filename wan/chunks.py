"""Split of a long video into overlapping chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from wan.types import TEMPORAL_STRIDE, round_up_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Frames [start, stop) of the timeline. The first `overlap` frames repeat the end of the chunk before (0 at the
    start of a scene), the next `num_new` are new, and any others are discarded."""

    index: int
    start: int
    stop: int
    overlap: int
    num_new: int


def plan_chunks(num_frames: int, frame_num: int, motion_frame: int, cuts: Sequence[int] = ()) -> list[Chunk]:
    """Chunks of `frame_num` frames whose new frames add up to `num_frames`.

    Each chunk overlaps the one before by `motion_frame` frames, except at the frames `cuts` (ascending), where a scene
    starts. The last chunk of a scene is generated in full and trimmed.
    """
    assert num_frames > 0, num_frames
    chunks: list[Chunk] = []
    for scene_start, scene_stop in pairwise((0, *(cut for cut in cuts if cut < num_frames), num_frames)):
        covered = scene_start
        while covered < scene_stop:
            overlap = motion_frame if covered > scene_start else 0
            start = covered - overlap
            num_new = min(frame_num - overlap, scene_stop - covered)
            chunks.append(
                Chunk(index=len(chunks), start=start, stop=start + frame_num, overlap=overlap, num_new=num_new)
            )
            covered += num_new
    return chunks


def fit_chunk(num_frames: int, frame_num: int, motion_frame: int) -> tuple[int, int]:
    """(frame_num, motion_frame) for a video of `num_frames` frames.

    A video shorter than a chunk gets the smallest chunk of 4n + 1 frames that holds it, of at least two latent frames.
    """
    frame_num = min(frame_num, max(round_up_frames(num_frames), TEMPORAL_STRIDE + 1))
    return frame_num, min(motion_frame, frame_num - TEMPORAL_STRIDE)
