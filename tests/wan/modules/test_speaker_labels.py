"""Speaker labels against a direct implementation of the formula."""

import pytest
import torch
from torch import Tensor

from wan.modules.speaker_labels import SpeakerMasks, attention_to_classes, speaker_labels, token_masks

GRID = (3, 4, 6)
TOKENS = 24
GENERATOR = torch.Generator().manual_seed(0)
Q, K = (torch.randn(1, 72, 4, 24, generator=GENERATOR) for _ in range(2))


def masks(empty_second: bool = False) -> SpeakerMasks:
    grid = torch.zeros(1, 3, 8, 12)
    grid[:, 0, :, :4] = 1
    grid[:, 1, :, 8:] = 0 if empty_second else 1
    grid[:, 2] = 1 - grid[:, :2].amax(1)
    return token_masks(grid, *GRID[1:])


def reference_map(classes: SpeakerMasks) -> Tensor:
    weights = torch.einsum("blae,bsae->bals", Q, K[:, :TOKENS]).div(24**0.5).softmax(-1).mean(1)
    return weights @ classes.masks / classes.counts.clamp(min=1)[:, None]


def test_class_attention_is_the_mean_of_the_attention_matrix() -> None:
    torch.testing.assert_close(attention_to_classes(Q, K, masks()), reference_map(masks()), atol=1e-6, rtol=1e-5)


def test_labels_are_in_the_range_of_their_class() -> None:
    labels = speaker_labels(Q, K, masks())
    winner = reference_map(masks()).argmax(-1)
    for i, (low, high) in enumerate(((0, 4), (20, 24), (12, 12))):
        of_class = labels[winner == i]
        assert len(of_class)
        assert ((of_class >= low) & (of_class <= high)).all()


def test_a_class_without_tokens_is_never_chosen() -> None:
    labels = speaker_labels(Q, K, masks(empty_second=True))
    assert labels.isfinite().all()
    assert (labels <= 12).all()


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (16, 24)])
def test_masks_are_resized_with_floored_source_indices(size: tuple[int, int]) -> None:
    source = torch.rand(1, 3, *size).round()
    rows = torch.arange(4) * size[0] // 4
    columns = torch.arange(6) * size[1] // 6
    expected = source[:, :, rows][..., columns].flatten(2).transpose(1, 2)
    assert torch.equal(token_masks(source, 4, 6).masks, expected)
