"""Chunk plans cover each frame once."""

import pytest

from wan.chunks import fit_chunk, plan_chunks


@pytest.mark.parametrize(("frame_num", "motion_frame"), [(81, 25), (33, 9), (9, 5), (5, 1)])
@pytest.mark.parametrize("num_frames", [1, 2, 5, 9, 10, 80, 81, 82, 137, 138, 200, 1000])
def test_new_frames_cover_each_frame_once(num_frames: int, frame_num: int, motion_frame: int) -> None:
    covered: list[int] = []
    for index, chunk in enumerate(plan_chunks(num_frames, frame_num, motion_frame)):
        assert chunk.index == index
        assert chunk.stop - chunk.start == frame_num
        assert chunk.overlap == (motion_frame if index else 0)
        assert chunk.overlap + chunk.num_new <= frame_num
        assert chunk.num_new > 0
        first = chunk.start + chunk.overlap
        covered += range(first, first + chunk.num_new)
    assert covered == list(range(num_frames))


def test_starts_of_published_chunks() -> None:
    assert [chunk.start for chunk in plan_chunks(200, 81, 25)] == [0, 56, 112, 168]


@pytest.mark.parametrize(
    ("num_frames", "expected"), [(1, (5, 1)), (5, (5, 1)), (6, (9, 5)), (49, (49, 25)), (81, (81, 25)), (500, (81, 25))]
)
def test_a_short_video_has_a_short_chunk(num_frames: int, expected: tuple[int, int]) -> None:
    assert fit_chunk(num_frames, 81, 25) == expected
