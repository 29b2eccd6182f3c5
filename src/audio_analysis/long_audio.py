"""The speech of a long track, encoded in overlapping windows while it is asked for, so that no length fills the memory.

A window is encoded as a file of its own would be, except that what the encoder measures over a whole file (mean and
deviation of the samples, and of the channels after its first layer) is measured once, over the first minutes that are
not silent: a pause is not amplified, and a state does not depend on what comes after its window.
F frames, N samples of 16 kHz, Y layers, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.media.audio.spool import release_pages
from src.media.rates import FPS, SAMPLES_PER_FRAME, SPEECH_RATE

MAX_WHOLE_SECONDS = 600
"""Up to here a track is encoded whole, as the reference does: of the published encoder 15,000 frames of 12 x 768 states
take 553 MB, and what its first convolution makes of them, for a moment, 3.9 GB and as much again for each copy. It is
also what MAX_SECONDS allows unless the operator raises it."""
CACHED_SEGMENTS = 2
"""A chunk is shorter than a window, and the next chunk goes back by less."""
SILENCE_PEAK = 1e-4
"""A second with no sample above it says nothing about a voice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSize:
    """Frames that a window answers for, and frames that it hears before and after them.

    Together 16 seconds, about as much as wav2vec 2.0 was trained on at once (250,000 samples).
    """

    core: int = 8 * FPS
    context: int = 4 * FPS


def embed_speech(model: Wav2Vec2Model, track_N: np.ndarray) -> "Tensor | LazySpeechEmbeddings":
    """Speech states of a 16 kHz track, F x Y x D on the CPU, or of a long one what makes them."""
    if len(track_N) > MAX_WHOLE_SECONDS * SPEECH_RATE:
        return LazySpeechEmbeddings(model, track_N)
    return model.get_embeddings(model.extract_features(track_N, SPEECH_RATE)).cpu()


class LazySpeechEmbeddings:
    """States of a track by frame, as a tensor F x Y x D gives them to a tensor of indices.

    `measured` is over how many seconds the measures are taken.
    """

    def __init__(
        self,
        model: Wav2Vec2Model,
        track_N: np.ndarray,
        windows: SegmentSize | None = None,
        measured: int = MAX_WHOLE_SECONDS,
    ) -> None:
        self.model = model
        self.track_N = track_N
        self.windows = windows or SegmentSize()
        self.scale = (
            Normalization.of(non_silent_seconds(track_N, measured))
            if model.preprocessor.do_normalize
            else Normalization()
        )
        self.norm = model.channel_norm(self.scale(part_N) for part_N in non_silent_seconds(track_N, measured))
        self.kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.track_N) // SAMPLES_PER_FRAME

    @property
    def shape(self) -> torch.Size:
        """F, Y, D."""
        config = self.model.config
        return torch.Size((len(self), config.num_hidden_layers, config.hidden_size))

    def __getitem__(self, places: Tensor) -> Tensor:
        """States of frames: (*places.shape, Y, D), float32 on the CPU."""
        numbers = places // self.windows.core
        states = torch.empty(*places.shape, *self.shape[1:])
        for number in numbers.unique().tolist():
            inside = numbers == number
            states[inside] = self._window(number)[places[inside] - number * self.windows.core]
        return states

    def _window(self, number: int) -> Tensor:
        """The states that a window answers for; the last few are kept."""
        if number not in self.kept:
            while len(self.kept) >= CACHED_SEGMENTS:
                del self.kept[next(iter(self.kept))]
            self.kept[number] = self._encoded(number * self.windows.core)
        return self.kept[number]

    @torch.inference_mode()
    def _encoded(self, first: int) -> Tensor:
        """The states of the frames from `first` on, heard with their context."""
        last = min(first + self.windows.core, len(self))
        begin, end = max(0, first - self.windows.context), min(last + self.windows.context, len(self))
        heard_N = self.scale(self.track_N[begin * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME])
        release_pages(self.track_N)
        weight = self.model.encoder.layer_norm.weight
        states = self.model.layer_states(torch.from_numpy(heard_N)[None].to(weight.device, weight.dtype), self.norm)
        return states[0, first - begin : last - begin].float().cpu()


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """Zero mean and unit variance for the samples that were measured."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, parts: Iterator[np.ndarray]) -> "Normalization":
        """Measured over parts of a track; as transformers' feature extractor does, 1e-7 is added to the variance."""
        count, total, squares = 0, 0.0, 0.0
        for part_N in parts:
            count += len(part_N)
            total += float(part_N.sum(dtype=np.float64))
            squares += float(np.square(part_N, dtype=np.float64).sum())
        mean = total / max(1, count)
        return cls(mean=mean, deviation=float(np.sqrt(squares / max(1, count) - mean**2 + 1e-7)))

    def __call__(self, samples_N: np.ndarray) -> np.ndarray:
        return ((samples_N - self.mean) / self.deviation).astype(np.float32)


def non_silent_seconds(track_N: np.ndarray, seconds: int) -> Iterator[np.ndarray]:
    """The first seconds of a track that are not silent, at most so many, one by one."""
    left = seconds
    for first in range(0, len(track_N) - SPEECH_RATE + 1, SPEECH_RATE):
        second_N = track_N[first : first + SPEECH_RATE]
        if left and np.abs(second_N).max() > SILENCE_PEAK:
            left -= 1
            yield second_N
        release_pages(track_N)
