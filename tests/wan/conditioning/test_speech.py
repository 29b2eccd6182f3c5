"""Windows of speech embeddings around each frame."""

import torch
from torch import Tensor

from wan.chunks import Chunk, plan_chunks
from wan.conditioning.speech import speech_windows


def frame_indices(length: int) -> Tensor:
    """Embeddings whose value is the index of their frame."""
    return torch.arange(length, dtype=torch.float32)[:, None, None]


def windows_of(speech: tuple[Tensor, ...], chunk: Chunk) -> list[list[list[int]]]:
    """Frame indices, persons x frames x window."""
    return speech_windows(speech, chunk, 5)[..., 0, 0].int().tolist()


def test_windows_reach_across_chunk_borders() -> None:
    chunks = plan_chunks(30, 9, 5)
    windows = windows_of((frame_indices(30),), chunks[1])[0]
    assert windows[0] == [2, 3, 4, 5, 6]
    assert windows[-1] == [10, 11, 12, 13, 14]


def test_first_frame_repeats_before_the_start() -> None:
    assert windows_of((frame_indices(30),), plan_chunks(30, 9, 5)[0])[0][0] == [0, 0, 0, 1, 2]


def test_frames_past_the_end_are_mirrored() -> None:
    chunk = Chunk(index=0, start=0, stop=9, overlap=0, num_new=3)
    middle = [window[2] for window in windows_of((frame_indices(3),), chunk)[0]]
    assert middle == [0, 1, 2, 2, 1, 0, 0, 1, 2]


def test_shorter_second_speech_repeats_its_last_frame_until_the_first_ends() -> None:
    chunks = plan_chunks(20, 9, 5)
    speech = (frame_indices(20), frame_indices(10))
    before, last = chunks[1], chunks[-1]
    assert before.stop < 20 <= last.stop
    assert [window[2] for window in windows_of(speech, before)[1]] == [4, 5, 6, 7, 8, 9, 9, 9, 9]
    assert [window[2] for window in windows_of(speech, last)[1]][:3] == [7, 6, 5]
