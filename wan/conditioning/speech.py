"""Windows of speech embeddings around each video frame of a chunk.

Shapes: N persons, F frames, W frames of a window, Y layers, C width.
"""

import torch
from torch import Tensor

from wan.chunks import Chunk
from wan.conditioning.protocols import SpeechEmbeddings


def check_embeddings(speech: tuple[SpeechEmbeddings, ...], num_layers: int, width: int) -> None:
    """Raise ValueError for embeddings whose shape is not that of the model's speech encoder."""
    for number, embeddings in enumerate(speech, 1):
        if tuple(embeddings.shape[1:]) != (num_layers, width):
            raise ValueError(
                f"speech of person{number} has shape {tuple(embeddings.shape)}; "
                f"frames x {num_layers} x {width} is expected"
            )


def speech_windows(speech: tuple[SpeechEmbeddings, ...], chunk: Chunk, window: int) -> Tensor:
    """N x F x W x Y x C: for each frame of the chunk the states of its neighbors, -W/2 to +W/2.

    `speech` holds frames x Y x C for each person. Before the start the first frame repeats. Past the end the frames
    continue backwards (mirrored); but for a person whose speech is shorter than person 1's the last frame repeats in
    the chunks before the one that reaches the end of person 1's speech, as in the reference implementation.
    """
    offsets = torch.arange(window) - window // 2
    indices_FW = torch.arange(chunk.start, chunk.stop)[:, None] + offsets
    mirrored = chunk.stop >= len(speech[0])
    return torch.stack([each[_fold(indices_FW, len(each), mirrored)] for each in speech])


def _fold(indices: Tensor, length: int, mirrored: bool) -> Tensor:
    """Map indices of any value into [0, length)."""
    indices = indices.clamp(min=0)
    if not mirrored:
        return indices.clamp(max=length - 1)
    phase = indices % (2 * length)
    return torch.where(phase < length, phase, 2 * length - 1 - phase)
