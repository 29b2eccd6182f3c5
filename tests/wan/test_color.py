"""Color correction in CIE Lab."""

from typing import Any

import pytest
import torch

from wan import color
from wan.color import lab_stats, lab_to_rgb, match_color, rgb_to_lab

REFERENCE = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
TARGET = lab_stats(REFERENCE[:, None])


def test_constants_are_copied_to_a_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[object] = []
    tensor = torch.tensor

    def counted(values: object, **options: Any) -> torch.Tensor:
        copies.append(values)
        return tensor(values, **options)

    color._constants.cache_clear()
    monkeypatch.setattr(torch, "tensor", counted)
    for _ in range(3):
        match_color(REFERENCE[:, None], TARGET, 0.5)
    assert len(copies) == 3


def test_lab_round_trip() -> None:
    rgb = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-4, rtol=0)


def test_lab_of_known_colors() -> None:
    white, red = torch.ones(3, 1, 1, 1), torch.tensor([1.0, 0, 0]).view(3, 1, 1, 1)
    torch.testing.assert_close(rgb_to_lab(white).flatten(), torch.tensor([100.0, 0, 0]), atol=1e-2, rtol=0)
    torch.testing.assert_close(rgb_to_lab(red).flatten(), torch.tensor([53.24, 80.09, 67.20]), atol=2e-2, rtol=0)


def test_the_reference_frame_is_unchanged() -> None:
    torch.testing.assert_close(match_color(REFERENCE[:, None], TARGET, 1.0), REFERENCE[:, None], atol=1e-4, rtol=0)


def test_color_drift_is_corrected() -> None:
    drifted = (REFERENCE[:, None] * 0.7 + 0.1).expand(-1, 3, -1, -1)
    before = (rgb_to_lab(drifted / 2 + 0.5).mean((2, 3)) - rgb_to_lab(REFERENCE[:, None] / 2 + 0.5).mean((2, 3))).abs()
    matched = match_color(drifted, TARGET, 1.0)
    after = (rgb_to_lab(matched / 2 + 0.5).mean((2, 3)) - rgb_to_lab(REFERENCE[:, None] / 2 + 0.5).mean((2, 3))).abs()
    assert after.max() < 0.5 < before.max()


def test_constant_frames_stay_finite() -> None:
    assert match_color(torch.zeros(3, 2, 8, 8), TARGET, 0.5).isfinite().all()
    assert match_color(-torch.ones(3, 2, 8, 8), lab_stats(torch.zeros(3, 1, 8, 8)), 1.0).isfinite().all()


def test_gray_frames_do_not_become_noisy() -> None:
    gray = torch.rand(1, 2, 16, 24, generator=torch.Generator().manual_seed(1)).expand(3, -1, -1, -1) * 2 - 1
    lab = rgb_to_lab(match_color(gray, TARGET, 0.3) / 2 + 0.5)
    # A uniform tint is allowed, but no chroma noise.
    assert lab[1:].std((2, 3)).max() < 3.0
