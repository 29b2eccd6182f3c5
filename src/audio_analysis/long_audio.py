"""Speech embeddings of long audio, computed on demand in overlapping segments, so that memory use is bounded.

A segment is encoded like a file of its own, except for the two normalizations over the whole input (of the samples, and
of the channels after the encoder's first layer): their statistics are measured once, over the first minutes that are
not silent. So a pause is not amplified, and a state does not depend on audio after its segment.
F frames, N samples at 16 kHz, Y layers, D width.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.media.audio.spool import release_pages
from src.media.rates import FPS, SAMPLES_PER_FRAME, SPEECH_RATE
from src.serving.request_warnings import warn_caller

logger = logging.getLogger(__name__)

MAX_WHOLE_SECONDS = 600
"""Audio up to this length is encoded at once, as the reference does. With the published encoder its 15,000 frames of
12 x 768 states take 553 MB, and the output of the first convolution 3.9 GB, plus as much for each temporary copy; a GPU
that has less free encodes segments. It is also the default of MAX_SECONDS."""
CACHED_SEGMENTS = 2
"""A chunk is shorter than a segment, and the next chunk starts less than a segment before its end."""
SILENCE_PEAK = 1e-4
"""A second without a larger sample is excluded from the statistics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSize:
    """Frames that a segment contributes, and frames of context before and after them.

    16 seconds in all, about the length of the crops that wav2vec 2.0 was trained on (250,000 samples).
    """

    core: int = 8 * FPS
    context: int = 4 * FPS


def embed_speech(model: Wav2Vec2Model, waveform_N: np.ndarray) -> "Tensor | LazySpeechEmbeddings":
    """Speech embeddings of a 16 kHz waveform, F x Y x D on the CPU; computed lazily for long audio.

    Also lazily, with a warning, where the GPU's memory is not enough for the whole waveform.
    """
    if len(waveform_N) <= MAX_WHOLE_SECONDS * SPEECH_RATE:
        try:
            return model.get_embeddings(model.extract_features(waveform_N, SPEECH_RATE)).cpu()
        except torch.OutOfMemoryError as error:
            logger.info("speech encoder: %s", error)
            warn_caller("the GPU's memory is short: speech is encoded in segments, slightly different from the whole")
    return LazySpeechEmbeddings(model, waveform_N)


class LazySpeechEmbeddings:
    """Embeddings of a waveform, indexed with a tensor of frame numbers like a tensor F x Y x D.

    The statistics are measured over the first `stats_seconds` that are not silent.
    """

    def __init__(
        self,
        model: Wav2Vec2Model,
        waveform_N: np.ndarray,
        segment: SegmentSize | None = None,
        stats_seconds: int = MAX_WHOLE_SECONDS,
    ) -> None:
        self.model = model
        self.waveform_N = waveform_N
        self.segment = segment or SegmentSize()
        self.normalization = (
            Normalization.measure(non_silent_seconds(waveform_N, stats_seconds))
            if model.preprocessor.do_normalize
            else Normalization()
        )
        speech = non_silent_seconds(waveform_N, stats_seconds)
        self.channel_norm = model.channel_norm(self.normalization(second_N) for second_N in speech)
        self.cache: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.waveform_N) // SAMPLES_PER_FRAME

    @property
    def shape(self) -> torch.Size:
        """F, Y, D."""
        config = self.model.config
        return torch.Size((len(self), config.num_hidden_layers, config.hidden_size))

    def __getitem__(self, frame_idx: Tensor) -> Tensor:
        """States of the given frames: (*frame_idx.shape, Y, D), float32 on the CPU."""
        segment_idx = frame_idx // self.segment.core
        states = torch.empty(*frame_idx.shape, *self.shape[1:])
        for index in segment_idx.unique().tolist():
            is_inside = segment_idx == index
            states[is_inside] = self._get_segment(index)[frame_idx[is_inside] - index * self.segment.core]
        return states

    def _get_segment(self, index: int) -> Tensor:
        """The states of a segment, from a cache of the last CACHED_SEGMENTS."""
        if index not in self.cache:
            while len(self.cache) >= CACHED_SEGMENTS:
                del self.cache[next(iter(self.cache))]
            self.cache[index] = self._encode(index * self.segment.core)
        return self.cache[index]

    @torch.inference_mode()
    def _encode(self, first: int) -> Tensor:
        """The states of the segment that starts at frame `first`, encoded with its context."""
        last = min(first + self.segment.core, len(self))
        start, end = max(0, first - self.segment.context), min(last + self.segment.context, len(self))
        samples_N = self.normalization(self.waveform_N[start * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME])
        release_pages(self.waveform_N)
        weight = self.model.encoder.layer_norm.weight
        samples_1N = torch.from_numpy(samples_N)[None].to(weight.device, weight.dtype)
        states = self.model.layer_states(samples_1N, self.channel_norm)
        return states[0, first - start : last - start].float().cpu()


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """Shift and scale that give the measured samples zero mean and unit variance."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def measure(cls, chunks: Iterator[np.ndarray]) -> "Normalization":
        """Statistics of all chunks; 1e-7 is added to the variance, as in transformers' feature extractor."""
        count, total, total_squares = 0, 0.0, 0.0
        for chunk_N in chunks:
            count += len(chunk_N)
            total += float(chunk_N.sum(dtype=np.float64))
            total_squares += float(np.square(chunk_N, dtype=np.float64).sum())
        mean = total / max(1, count)
        return cls(mean=mean, deviation=float(np.sqrt(total_squares / max(1, count) - mean**2 + 1e-7)))

    def __call__(self, samples_N: np.ndarray) -> np.ndarray:
        return ((samples_N - self.mean) / self.deviation).astype(np.float32)


def non_silent_seconds(waveform_N: np.ndarray, max_seconds: int) -> Iterator[np.ndarray]:
    """The first `max_seconds` seconds that are not silent, one by one."""
    left = max_seconds
    for first in range(0, len(waveform_N) - SPEECH_RATE + 1, SPEECH_RATE):
        second_N = waveform_N[first : first + SPEECH_RATE]
        if left and np.abs(second_N).max() > SILENCE_PEAK:
            left -= 1
            yield second_N
        release_pages(waveform_N)
