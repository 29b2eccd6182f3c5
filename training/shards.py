"""Batches of clips from the shards that `training.dataset` writes.

Shapes: B batch, C latent channels, T latent frames, h x w latent rows and columns.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.components import CONFIG
from training.editions import EDITION
from training.training_loop import DEVICE
from wan.types import SPATIAL_STRIDE, latent_frames

SHORT_FRAMES = 17
"""Frames that most batches are truncated to, which is exact, because the VAE is causal."""
_SMALL_CELLS = min(height * width for height, width in EDITION.sizes.values()) // SPATIAL_STRIDE**2
"""Latent cells per frame of the smallest size."""

Batch = dict[str, Tensor]


class Shards:
    """The clips of several folders, to which other processes may add shards. Each folder has the same share."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.shards: dict[Path, dict[Path, Batch]] = {folder: {} for folder in folders}

    def refresh(self) -> None:
        """Load new shards. Raises FileNotFoundError while a folder has none."""
        for folder, shards in self.shards.items():
            for path in sorted(folder.glob("*.safetensors")):
                if path not in shards:
                    shards[path] = load_file(path)
            if not shards:
                raise FileNotFoundError(
                    f"{folder} has no shards; `python -m training.dataset` and `training.rollouts` write them"
                )

    def sample(self, rng: np.random.Generator, batch: int, frames: int) -> Batch:
        """The first `frames` of random clips of one folder, frame size and number of persons.

        The number of clips gives as many tokens as `batch` whole chunks of the smallest frame size.
        """
        folders = list(self.shards.values())
        shards = list(folders[rng.integers(len(folders))].values()) if len(folders) > 1 else list(folders[0].values())
        first = shards[rng.integers(len(shards))]
        shape = (first["video"].shape[1:], first["speech"].shape[1])
        same = [shard for shard in shards if (shard["video"].shape[1:], shard["speech"].shape[1]) == shape]
        cells = first["video"].shape[-1] * first["video"].shape[-2]
        count = max(2, batch * _SMALL_CELLS * latent_frames(CONFIG.frame_num) // (cells * latent_frames(frames)))
        chosen = [same[i] for i in rng.integers(len(same), size=count)]
        indices = [int(rng.integers(len(shard["video"]))) for shard in chosen]
        examples = {
            name: torch.stack([shard[name][i] for shard, i in zip(chosen, indices, strict=True)]).float().to(DEVICE)
            for name in first
        }
        return truncate_frames(examples, frames)


def truncate_frames(batch: Batch, frames: int) -> Batch:
    """The first `frames` (4n + 1) of every clip."""
    num_latents, margin = latent_frames(frames), CONFIG.transformer.audio_window - 1
    truncated = {name: batch[name][:, :, :num_latents] for name in ("video", "condition")}
    return batch | truncated | {"speech": batch["speech"][:, :, : frames + margin]}
