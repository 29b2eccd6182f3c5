"""Seams are detected in synthetic signals, and only there."""

import numpy as np
import pytest

from benchmarks.quality.seams import ROW, Signals, compare_seams, over_limit, seams
from wan.chunks import plan_chunks

FRAMES = ROW.num_frames - 1


def synthetic_signals(seed: int = 0) -> Signals:
    """A mouth that follows its voice closely, and small random color changes; no seams."""
    rng = np.random.default_rng(seed)
    expected = np.convolve(rng.random(FRAMES + 4), np.ones(5) / 5, mode="valid")
    return Signals(
        opening=expected + 0.02 * rng.standard_normal(FRAMES),
        expected=expected,
        color=2 + 0.1 * rng.standard_normal(FRAMES),
        step=0.3 * rng.random(FRAMES // 4),
    )


def test_seams_are_at_chunk_starts() -> None:
    chunks = plan_chunks(ROW.num_frames, 33, 9)
    assert len(chunks) == 10
    assert list(seams(FRAMES) + 1) == [chunk.start + chunk.overlap for chunk in chunks[1:]]


def test_signals_without_seams_pass() -> None:
    assert over_limit(compare_seams([synthetic_signals(0), synthetic_signals(1)])) == []


@pytest.mark.parametrize("name", ["correlation", "distance", "color", "step"])
def test_seam_is_detected(name: str) -> None:
    video = synthetic_signals()
    for position in seams(FRAMES):
        around = slice(position - 2, position + 2)
        if name == "correlation":
            video.opening[around] = 1 - video.opening[around]
        elif name == "distance":
            video.opening[around] += 0.3
        elif name == "color":
            video.color[around] += 0.5
        else:
            video.step[position // 4] += 1
    assert name in over_limit(compare_seams([video]))
