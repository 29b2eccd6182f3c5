"""Windows of speech states around every video frame of a chunk.

Shapes: N persons, F frames, W window places, Y layers, C width.
"""

import torch
from torch import Tensor

from wan.chunks import Chunk
from wan.conditioning.protocols import SpeechEmbeddings


def check_embeddings(tracks: tuple[SpeechEmbeddings, ...], layers: int, width: int) -> None:
    """Raise ValueError for a track that is not of the speech encoder this model was trained with."""
    for number, track in enumerate(tracks, 1):
        if tuple(track.shape[1:]) != (layers, width):
            raise ValueError(
                f"speech of person{number} has shape {tuple(track.shape)}; frames x {layers} x {width} is expected"
            )


def speech_windows(tracks: tuple[SpeechEmbeddings, ...], chunk: Chunk, window: int) -> Tensor:
    """N x F x W x Y x C: for each frame of the chunk the states of its neighbours, -W/2 to +W/2.

    `tracks` are frames x Y x C each. Before the start the first frame repeats. Past the end a track is read
    backwards (mirrored); but a track that is shorter than person 1's repeats its last frame in the chunks before
    the one that reaches the end of person 1's track, as the reference does.
    """
    offsets = torch.arange(window) - window // 2
    places_FW = torch.arange(chunk.start, chunk.stop)[:, None] + offsets
    mirrored = chunk.stop >= len(tracks[0])
    return torch.stack([track[_inside(places_FW, len(track), mirrored)] for track in tracks])


def _inside(places: Tensor, length: int, mirrored: bool) -> Tensor:
    places = places.clamp(min=0)
    if not mirrored:
        return places.clamp(max=length - 1)
    turn = places % (2 * length)
    return torch.where(turn < length, turn, 2 * length - 1 - turn)
