"""Windows of speech around each frame."""

import torch
from torch import Tensor

from wan.chunks import Chunk, plan_chunks
from wan.conditioning.speech import speech_windows


def track(length: int, first: int = 0) -> Tensor:
    """States that are their own frame numbers."""
    return torch.arange(first, first + length, dtype=torch.float32)[:, None, None]


def numbers(tracks: tuple[Tensor, ...], chunk: Chunk) -> list[list[list[int]]]:
    return speech_windows(tracks, chunk, 5)[..., 0, 0].int().tolist()


def test_windows_look_across_chunk_borders() -> None:
    chunks = plan_chunks(30, 9, 5)
    windows = numbers((track(30),), chunks[1])[0]
    assert windows[0] == [2, 3, 4, 5, 6]
    assert windows[-1] == [10, 11, 12, 13, 14]


def test_the_first_frame_repeats_before_the_start() -> None:
    assert numbers((track(30),), plan_chunks(30, 9, 5)[0])[0][0] == [0, 0, 0, 1, 2]


def test_the_end_is_mirrored_and_continued() -> None:
    chunk = Chunk(index=0, start=0, stop=9, overlap=0, num_new=3)
    middle = [window[2] for window in numbers((track(3),), chunk)[0]]
    assert middle == [0, 1, 2, 2, 1, 0, 0, 1, 2]


def test_a_shorter_second_track_repeats_its_end_until_the_first_one_ends() -> None:
    chunks = plan_chunks(20, 9, 5)
    tracks = (track(20), track(10))
    before, last = chunks[1], chunks[-1]
    assert before.stop < 20 <= last.stop
    assert [window[2] for window in numbers(tracks, before)[1]] == [4, 5, 6, 7, 8, 9, 9, 9, 9]
    assert [window[2] for window in numbers(tracks, last)[1]][:3] == [7, 6, 5]
