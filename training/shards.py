"""Batches from the shards that `training.dataset` wrote.

Shapes: B batch, C latent channels, T latent frames, h x w latent rows and columns.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.components import CONFIG
from training.training_loop import DEVICE
from wan.types import latent_frames

SHORT = 17
"""Frames that most batches are cut to: the VAE is causal, so that the beginning of a chunk needs nothing after it."""
_CELLS = 128
"""Latent cells of a frame of the smallest size."""

Batch = dict[str, Tensor]


class Shards:
    """The clips of a folder; new shards are found as they are written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[Path, Batch] = {}

    def refresh(self) -> None:
        """Read what is new; raises FileNotFoundError while there is nothing."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self.shards:
                self.shards[path] = load_file(path)
        if not self.shards:
            raise FileNotFoundError(f"{self.folder} holds no shards; `python -m training.dataset` writes them")

    def draw(self, rng: np.random.Generator, batch: int, frames: int) -> Batch:
        """The first `frames` of clips of one size and number of persons, from any shards that hold such.

        As many as have the tokens of `batch` whole chunks of the smallest frames.
        """
        shards = list(self.shards.values())
        like = shards[rng.integers(len(shards))]
        shape = (like["video"].shape[1:], like["speech"].shape[1])
        same = [shard for shard in shards if (shard["video"].shape[1:], shard["speech"].shape[1]) == shape]
        cells = like["video"].shape[-1] * like["video"].shape[-2]
        count = max(2, batch * _CELLS * latent_frames(CONFIG.frame_num) // (cells * latent_frames(frames)))
        chosen = [same[i] for i in rng.integers(len(same), size=count)]
        places = [int(rng.integers(len(shard["video"]))) for shard in chosen]
        examples = {
            name: torch.stack([shard[name][i] for shard, i in zip(chosen, places, strict=True)]).float().to(DEVICE)
            for name in like
        }
        return cut(examples, frames)


def cut(batch: Batch, frames: int) -> Batch:
    """The first `frames` (4n + 1) of every clip."""
    latents, margin = latent_frames(frames), CONFIG.transformer.audio_window - 1
    shorter = {name: batch[name][:, :, :latents] for name in ("video", "condition")}
    return batch | shorter | {"speech": batch["speech"][:, :, : frames + margin]}
