"""The speech encoder: wav2vec2 with one state per video frame and all its layers.

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
    """Mean and variance (C,) of the channels of the first layer, which it otherwise measures over all it is given."""

    mean: torch.Tensor
    variance: torch.Tensor


class Wav2Vec2Model(transformers.Wav2Vec2Model):
    """transformers' network, asked for the video's frame rate instead of its own 49 states a second."""

    # The published checkpoint comes from pre-training and also holds what only that needs.
    _keys_to_ignore_on_load_unexpected = [r"^quantizer\.", r"^project_q\.", r"^project_hid\."]  # noqa: RUF012

    def __init__(self, config: transformers.Wav2Vec2Config) -> None:
        """Raises ValueError for the stable-layer-norm variant, whose layers mean something else."""
        if config.do_stable_layer_norm:
            raise ValueError("do_stable_layer_norm is true in the wav2vec2 config; only false is supported")
        super().__init__(config)
        self.preprocessor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=SPEECH_RATE, do_normalize=True)

    @classmethod
    def from_pretrained(cls, directory: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """Load a folder of config.json, preprocessor_config.json and weights; float32, ready to infer.

        `options` go to transformers. Raises OSError for a missing file, ValueError for weights that are not
        this network's, listed, and for another sample rate.
        """
        options = {"dtype": torch.float32, **options, "output_loading_info": True}
        loaded: Any = super().from_pretrained(directory, **options)
        model, report = loaded
        _check_complete(report)
        local = options.get("local_files_only", False)
        model.preprocessor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(directory, local_files_only=local)
        if model.preprocessor.sampling_rate != SPEECH_RATE:
            raise ValueError(
                f"the wav2vec2 folder is for {model.preprocessor.sampling_rate} Hz; {SPEECH_RATE} Hz is needed"
            )
        return model.eval()

    def extract_features(self, audio: np.ndarray | torch.Tensor, sr: int) -> torch.Tensor:
        """The network's input for a sound of `sr` Hz, (N,) or (channels, N): (1, N) float32 of 16 kHz.

        Of zero mean and unit variance where the folder's `preprocessor_config.json` says so.
        """
        sound = np.asarray(audio, np.float32)
        if sound.ndim == 2:
            sound = sound.mean(axis=0)
        if sound.ndim != 1:
            raise ValueError(f"audio has the shape {sound.shape}; needs (samples,) or (channels, samples)")
        if sr != SPEECH_RATE:
            sound = librosa.resample(sound, orig_sr=sr, target_sr=SPEECH_RATE, res_type="soxr_hq")
        return self.preprocessor(sound, sampling_rate=SPEECH_RATE, return_tensors="pt").input_values

    @torch.no_grad()
    def get_embeddings(self, features_1N: torch.Tensor) -> torch.Tensor:
        """The output of every layer for every video frame: (frames, layers, width), frames = N * 25 // 16000.

        Raises ValueError for less than one frame.
        """
        frames = features_1N.shape[-1] * FPS // SPEECH_RATE
        if frames < 1:
            raise ValueError(f"{features_1N.shape[-1]} samples of audio; needs at least {SAMPLES_PER_FRAME}")
        parameter = self.encoder.layer_norm.weight
        return self.layer_states(features_1N.to(parameter.device, parameter.dtype))[0]

    def layer_states(self, features_BN: torch.Tensor, norm: ChannelNorm | None = None) -> torch.Tensor:
        """Batches of equal length through the network, with gradients: (B, frames, layers, width).

        The first layer's channels are normalised by `norm`, or else by what they are in this sound.
        """
        frames = features_BN.shape[-1] * FPS // SPEECH_RATE
        sound_BCT = self.feature_extractor(features_BN) if norm is None else self._convolved(features_BN, norm)
        sound_BCF = functional.interpolate(sound_BCT, size=frames, mode="linear", align_corners=True)
        state_BFD, _ = self.feature_projection(sound_BCF.mT)
        state_BFD = self.encoder.layer_norm(state_BFD + self.encoder.pos_conv_embed(state_BFD))
        layers = []
        for layer in self.encoder.layers:
            state_BFD = layer(state_BFD)
            layers.append(state_BFD)
        return torch.stack(layers, dim=2)

    def _convolved(self, features_BN: torch.Tensor, norm: ChannelNorm) -> torch.Tensor:
        """What the convolutions make of a sound, B x C x T, with the first layer's channels normalised by `norm`."""
        layers: list[Any] = list(self.feature_extractor.conv_layers)
        first, *rest = layers
        affine = first.layer_norm
        sound_BCT = functional.batch_norm(
            first.conv(features_BN[:, None]), norm.mean, norm.variance, affine.weight, affine.bias, eps=affine.eps
        )
        sound_BCT = first.activation(sound_BCT)
        for layer in rest:
            sound_BCT = layer(sound_BCT)
        return sound_BCT

    @torch.no_grad()
    def channel_norm(self, parts: Iterable[np.ndarray]) -> ChannelNorm | None:
        """Of all parts (N,) of a sound together; None for a network that normalises each moment by itself."""
        if self.config.feat_extract_norm != "group":
            return None
        first: Any = self.feature_extractor.conv_layers[0]
        convolution, count = first.conv, 0
        total_C, squares_C = torch.zeros(2, convolution.out_channels, dtype=torch.float64)
        for part_N in parts:
            channels_CT = convolution(torch.from_numpy(part_N)[None, None].to(convolution.weight))[0].double().cpu()
            count += channels_CT.shape[1]
            total_C += channels_CT.sum(1)
            squares_C += channels_CT.square().sum(1)
        mean_C = total_C / max(1, count)
        variance_C = squares_C / max(1, count) - mean_C**2
        return ChannelNorm(mean=mean_C.to(convolution.weight), variance=variance_C.to(convolution.weight))


def _check_complete(report: dict[str, Any]) -> None:
    """Raises ValueError for weights that transformers would make up, or leave out, with a mere warning."""
    missing = set(report["missing_keys"]) - {"masked_spec_embed"}  # only training masks
    wrong = {
        "missing": missing,
        "unexpected": report["unexpected_keys"],
        "of another shape": report["mismatched_keys"],
    }
    lists = [f"{kind}: {', '.join(sorted(map(str, names)))}" for kind, names in wrong.items() if names]
    if lists:
        raise ValueError(f"the wav2vec2 weights do not fit the config; {'; '.join(lists)}")
