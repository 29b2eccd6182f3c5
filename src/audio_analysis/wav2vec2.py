"""The speech encoder: wav2vec2, resampled to one state per video frame, with the states of all layers.

Baevski et al., wav2vec 2.0 (arXiv 2006.11477). N samples at 16 kHz.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import librosa
import numpy as np
import torch
import transformers
from torch.nn import functional

from src.media.rates import FPS, SAMPLES_PER_FRAME, SPEECH_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelNorm:
    """Mean and variance (C,) for the group norm of the first layer, which otherwise measures them over its input."""

    mean: torch.Tensor
    variance: torch.Tensor


class Wav2Vec2Model(transformers.Wav2Vec2Model):
    """transformers' network at the video's frame rate instead of its own 49 states per second."""

    # The published checkpoint also holds the weights of pre-training.
    _keys_to_ignore_on_load_unexpected = [r"^quantizer\.", r"^project_q\.", r"^project_hid\."]  # noqa: RUF012

    def __init__(self, config: transformers.Wav2Vec2Config) -> None:
        """Raises ValueError for the stable-layer-norm variant, whose hidden states differ."""
        if config.do_stable_layer_norm:
            raise ValueError("do_stable_layer_norm is true in the wav2vec2 config; only false is supported")
        super().__init__(config)
        self.preprocessor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=SPEECH_RATE, do_normalize=True)

    @classmethod
    def from_pretrained(cls, directory: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """Load config.json, preprocessor_config.json and weights, in eval mode and float32 unless `dtype` is given.

        `options` are passed to transformers. Raises OSError for a missing file, and ValueError for missing or
        unexpected weights and for another sample rate.
        """
        options = {"dtype": torch.float32, **options, "output_loading_info": True}
        result: Any = super().from_pretrained(directory, **options)
        model, report = result
        _check_complete(report)
        local = options.get("local_files_only", False)
        model.preprocessor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(directory, local_files_only=local)
        if model.preprocessor.sampling_rate != SPEECH_RATE:
            raise ValueError(
                f"the wav2vec2 folder is for {model.preprocessor.sampling_rate} Hz; {SPEECH_RATE} Hz is needed"
            )
        return model.eval()

    def extract_features(self, audio: np.ndarray | torch.Tensor, sr: int) -> torch.Tensor:
        """The network's input for audio at `sr` Hz, (N,) or (channels, N): (1, N) float32 at 16 kHz.

        Channels are averaged. Normalized to zero mean and unit variance if the folder's `preprocessor_config.json`
        asks for it. Raises ValueError for another shape.
        """
        waveform = np.asarray(audio, np.float32)
        if waveform.ndim == 2:
            waveform = waveform.mean(axis=0)
        if waveform.ndim != 1:
            raise ValueError(f"audio has the shape {waveform.shape}; needs (samples,) or (channels, samples)")
        if sr != SPEECH_RATE:
            waveform = librosa.resample(waveform, orig_sr=sr, target_sr=SPEECH_RATE, res_type="soxr_hq")
        return self.preprocessor(waveform, sampling_rate=SPEECH_RATE, return_tensors="pt").input_values

    @torch.no_grad()
    def get_embeddings(self, features_1N: torch.Tensor) -> torch.Tensor:
        """The hidden state of every layer for every video frame: (frames, layers, width), frames = N * 25 // 16000.

        Raises ValueError for less than one frame.
        """
        if features_1N.shape[-1] * FPS // SPEECH_RATE < 1:
            raise ValueError(f"{features_1N.shape[-1]} samples of audio; needs at least {SAMPLES_PER_FRAME}")
        parameter = self.encoder.layer_norm.weight
        return self.layer_states(features_1N.to(parameter.device, parameter.dtype))[0]

    def layer_states(self, features_BN: torch.Tensor, norm: ChannelNorm | None = None) -> torch.Tensor:
        """The hidden states of a batch, with gradients: (B, frames, layers, width).

        The first layer's group norm uses the statistics `norm`, or else those of its input.
        """
        num_frames = features_BN.shape[-1] * FPS // SPEECH_RATE
        features_BCT = (
            self.feature_extractor(features_BN) if norm is None else self._extract_features(features_BN, norm)
        )
        features_BCF = functional.interpolate(features_BCT, size=num_frames, mode="linear", align_corners=True)
        state_BFD, _ = self.feature_projection(features_BCF.mT)
        state_BFD = self.encoder.layer_norm(state_BFD + self.encoder.pos_conv_embed(state_BFD))
        layers = []
        for layer in self.encoder.layers:
            state_BFD = layer(state_BFD)
            layers.append(state_BFD)
        return torch.stack(layers, dim=2)

    def _extract_features(self, features_BN: torch.Tensor, norm: ChannelNorm) -> torch.Tensor:
        """The output of the convolutions, B x C x T, with the statistics `norm` in the first layer's group norm."""
        layers: list[Any] = list(self.feature_extractor.conv_layers)
        first, *rest = layers
        group_norm = first.layer_norm
        features_BCT = functional.batch_norm(
            first.conv(features_BN[:, None]),
            norm.mean,
            norm.variance,
            group_norm.weight,
            group_norm.bias,
            eps=group_norm.eps,
        )
        features_BCT = first.activation(features_BCT)
        for layer in rest:
            features_BCT = layer(features_BCT)
        return features_BCT

    @torch.no_grad()
    def channel_norm(self, chunks: Iterable[np.ndarray]) -> ChannelNorm | None:
        """Statistics over all chunks (N,) of a waveform; None if the first layer has no group norm."""
        if self.config.feat_extract_norm != "group":
            return None
        first: Any = self.feature_extractor.conv_layers[0]
        convolution, count = first.conv, 0
        total_C, total_squares_C = torch.zeros(2, convolution.out_channels, dtype=torch.float64)
        for chunk_N in chunks:
            channels_CT = convolution(torch.from_numpy(chunk_N)[None, None].to(convolution.weight))[0].double().cpu()
            count += channels_CT.shape[1]
            total_C += channels_CT.sum(1)
            total_squares_C += channels_CT.square().sum(1)
        mean_C = total_C / max(1, count)
        variance_C = total_squares_C / max(1, count) - mean_C**2
        return ChannelNorm(mean=mean_C.to(convolution.weight), variance=variance_C.to(convolution.weight))


def _check_complete(report: dict[str, Any]) -> None:
    """Raises ValueError for weights that transformers would initialize randomly or ignore, with a warning only."""
    missing = set(report["missing_keys"]) - {"masked_spec_embed"}  # only training masks
    problems = {
        "missing": missing,
        "unexpected": report["unexpected_keys"],
        "of another shape": report["mismatched_keys"],
    }
    lists = [f"{kind}: {', '.join(sorted(map(str, names)))}" for kind, names in problems.items() if names]
    if lists:
        raise ValueError(f"the wav2vec2 weights do not fit the config; {'; '.join(lists)}")
