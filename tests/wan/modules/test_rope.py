"""Rotary embeddings."""

import pytest
import torch

from wan.modules.rope import apply_rope, label_rope, video_rope


@pytest.mark.parametrize("head_dim", [24, 32, 64, 128])
def test_rotation_preserves_norms_and_depends_on_relative_position(head_dim: int) -> None:
    x = torch.randn(1, 1, 1, head_dim).expand(1, 60, 1, head_dim)
    rotated = apply_rope(x, video_rope((3, 4, 5), head_dim, "cpu"))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    tokens = rotated.view(3, 4, 5, head_dim)
    torch.testing.assert_close((tokens[0, 0, 0] * tokens[1, 2, 1]).sum(), (tokens[1, 1, 2] * tokens[2, 3, 3]).sum())


def test_pairs_are_split_into_frame_row_and_column_groups() -> None:
    sine = video_rope((2, 2, 2), 128, "cpu").sin.view(2, 2, 2, 64)
    rotated = [sine[1, 0, 0] != 0, sine[0, 1, 0] != 0, sine[0, 0, 1] != 0]
    assert [int(part.sum()) for part in rotated] == [22, 21, 21]
    assert rotated[0][:22].all()
    assert rotated[1][22:43].all()
    assert rotated[2][43:].all()


def test_label_zero_does_not_rotate() -> None:
    x = torch.randn(1, 5, 2, 24)
    assert torch.equal(apply_rope(x, label_rope(torch.zeros(1, 5), 24)), x)
    assert apply_rope(x.bfloat16(), label_rope(torch.ones(1, 5), 24)).dtype == torch.bfloat16
