"""How the channels of a recording are mixed to the one waveform that moves the lips.

That is their mean, unless a channel would spoil it: one of opposite phase (the mean nearly cancels), one that holds
only noise or hum beside the speech of another, or a delayed copy. What is heard in the video keeps all channels.
C channels, N samples, F frames, L lags.
"""

from collections.abc import Iterator

import numpy as np

from src.media.audio.audio import Audio
from src.media.audio.spool import iter_chunks

# Channels are compared at about this rate, as differences of neighboring samples, which emphasizes speech over rumble.
ANALYSIS_RATE = 8_000
FRAME_SECONDS = 0.04
REFERENCE_POWER = 0.5
# Power of the sum relative to that of channels with nothing in common; below it they cancel.
MIN_COHERENCE = 0.5
# Decibels from quiet frames (10th percentile) to loud ones (95th): noise has at most the first, speech at least the
# second.
MAX_NOISE_RANGE, MIN_SPEECH_RANGE = 6.0, 12.0
# Noise that is weaker than the speech by more than this is harmless.
HARMLESS_DB = -30.0
# A copy that comes later is an echo in the mean; microphones in one room differ by less.
MIN_DELAY_SECONDS, MAX_DELAY_SECONDS = 0.008, 0.5
MIN_COPY_CORRELATION = 0.6
MIN_COPY_ADVANTAGE = 0.2
MAX_COMPARED_CHANNELS = 8
MIN_FRAMES = 25
# Power below which a frame counts as digital silence.
SILENT_POWER = 1e-10


def channel_weights(audio: Audio) -> tuple[np.ndarray, str] | None:
    """Weights (C,) whose magnitudes sum up to 1, and what was found; None for the mean of all channels."""
    if audio.num_channels == 1:
        return None
    covariance_CC, powers_CF = _measure(audio)
    if not covariance_CC.any():
        return None
    is_noise_C = _find_noise(powers_CF)
    used_C = ~is_noise_C
    is_late_C = used_C & _find_late_copies(audio, covariance_CC.diagonal(), used_C)
    used_C = used_C & ~is_late_C
    sign_C = _find_signs(covariance_CC, used_C)
    found = {"opposite phase": sign_C < 0, "a later copy": is_late_C, "only noise": is_noise_C}
    reasons = [f"{what} in {_names(channels_C)}" for what, channels_C in found.items() if channels_C.any()]
    return (used_C * sign_C / used_C.sum(), ", ".join(reasons)) if reasons else None


def _measure(audio: Audio) -> tuple[np.ndarray, np.ndarray]:
    """Covariance (C, C) and frame powers (C, F) of the emphasized channels."""
    covariance_CC, powers = np.zeros((audio.num_channels,) * 2), []
    frame = max(1, round(FRAME_SECONDS * _analysis_rate(audio)))
    for chunk_CN in _emphasize(audio):
        covariance_CC += chunk_CN @ chunk_CN.T
        num_frames = chunk_CN.shape[1] // frame
        frames_CFN = chunk_CN[:, : num_frames * frame].reshape(len(chunk_CN), num_frames, frame)
        powers.append(np.square(frames_CFN).mean(axis=2))
    return covariance_CC, np.concatenate(powers, axis=1)


def _find_noise(powers_CF: np.ndarray) -> np.ndarray:
    """Channels (C,) whose level hardly changes beside others with the changes of speech; all False without such."""
    if powers_CF.shape[1] < MIN_FRAMES:
        return np.zeros(len(powers_CF), bool)
    quiet_C, loud_C = np.percentile(10 * np.log10(np.maximum(powers_CF, SILENT_POWER)), (10, 95), axis=1)
    is_speech_C = loud_C - quiet_C >= MIN_SPEECH_RANGE
    if not is_speech_C.any():
        return is_speech_C
    is_loud_C = loud_C > loud_C[is_speech_C].max() + HARMLESS_DB
    return (loud_C - quiet_C <= MAX_NOISE_RANGE) & is_loud_C


def _reference(power_C: np.ndarray) -> int:
    """The first channel about as loud as the loudest."""
    return int(np.argmax(power_C >= REFERENCE_POWER * power_C.max()))


def _find_late_copies(audio: Audio, power_C: np.ndarray, used_C: np.ndarray) -> np.ndarray:
    """Channels (C,) that repeat the reference, or that the reference repeats, later than the earliest of these."""
    if used_C.sum() < 2 or audio.num_channels > MAX_COMPARED_CHANNELS:
        return np.zeros(audio.num_channels, bool)
    rate, reference = _analysis_rate(audio), _reference(power_C * used_C)
    max_lag, min_lag = round(MAX_DELAY_SECONDS * rate), round(MIN_DELAY_SECONDS * rate)
    correlation_CL = np.abs(_correlate(audio, reference, max_lag))
    correlation_CL /= np.sqrt(np.maximum(power_C * power_C[reference], np.finfo(float).tiny))[:, None]
    lag_C = correlation_CL.argmax(axis=1) - max_lag
    at_once_C = correlation_CL[:, max_lag - min_lag : max_lag + min_lag + 1].max(axis=1)
    is_copy_C = (correlation_CL.max(axis=1) > np.maximum(MIN_COPY_CORRELATION, at_once_C + MIN_COPY_ADVANTAGE)) & used_C
    lag_C = np.where(is_copy_C, lag_C, 0)
    is_related_C = is_copy_C | (np.arange(len(lag_C)) == reference) | (used_C & (at_once_C > MIN_COPY_CORRELATION))
    return is_related_C & (lag_C - lag_C[is_related_C].min() >= min_lag)


def _correlate(audio: Audio, reference: int, max_lag: int) -> np.ndarray:
    """Cross-correlation (C, L) of all channels with one, from -max_lag to max_lag samples, summed over chunks."""
    total_CL = np.zeros((audio.num_channels, 2 * max_lag + 1))
    for chunk_CN in _emphasize(audio):
        size = 1 << (chunk_CN.shape[1] + max_lag).bit_length()
        spectrum_CK = np.fft.rfft(chunk_CN, size)
        correlation_CN = np.fft.irfft(spectrum_CK * spectrum_CK[reference].conj(), size)
        total_CL += np.concatenate([correlation_CN[:, -max_lag:], correlation_CN[:, : max_lag + 1]], axis=1)
    return total_CL


def _find_signs(covariance_CC: np.ndarray, used_C: np.ndarray) -> np.ndarray:
    """-1 for channels (C,) of opposite phase to the reference, if the sum of the used ones nearly cancels."""
    used_CC = covariance_CC * used_C * used_C[:, None]
    power_C = used_CC.diagonal()
    ones_C = np.ones(len(power_C))
    if used_CC.sum() >= MIN_COHERENCE * power_C.sum():
        return ones_C
    return np.where(used_CC[_reference(power_C)] < 0, -1.0, 1.0)


def _emphasize(audio: Audio) -> Iterator[np.ndarray]:
    """Chunks (C, N) at the analysis rate: means of neighboring samples, then differences of neighboring means."""
    factor = _factor(audio)
    for chunk_CN in iter_chunks(audio.samples_CN):
        num_samples = chunk_CN.shape[1] // factor
        means_CN = chunk_CN[:, : num_samples * factor].reshape(len(chunk_CN), num_samples, factor).mean(axis=2)
        yield np.diff(means_CN.astype(np.float64), axis=1)


def _factor(audio: Audio) -> int:
    return max(1, audio.sample_rate // ANALYSIS_RATE)


def _analysis_rate(audio: Audio) -> float:
    return audio.sample_rate / _factor(audio)


def _names(channels_C: np.ndarray) -> str:
    numbers = [str(index + 1) for index in np.flatnonzero(channels_C)]
    return f"channel{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
