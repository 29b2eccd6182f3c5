"""The waveform that moves a person's lips, from a recording of any quality.

C channels, N samples.
"""

import numpy as np

from src.audio_analysis.channels import channel_weights
from src.audio_analysis.levels import SpeechLevels
from src.audio_analysis.repair import repair
from src.media.audio.audio import Audio
from src.media.audio.convert import convert
from src.media.audio.spool import iter_chunks, peak, spool
from src.media.rates import SPEECH_RATE
from src.serving.request_warnings import warn_caller

# -80 dBFS, three quantization steps of 16 bits: above the dither of a silent recording, below any voice.
SILENT_PEAK = 1e-4
# Share of the samples at a channel's limit, from which on it counts as clipped; a pure tone has 4 %.
CLIPPED_PEAK, MAX_CLIPPED_SHARE = 0.998, 0.06
# Shorter recordings may hold a single vowel, whose level does not change.
MIN_MEASURED_SECONDS = 1


def speech_waveform(audio: Audio, *, name: str, num_samples: int | None = None) -> np.ndarray:
    """(N,) float32 at 16 kHz, optionally cut or zero-padded at its end: the mean of the channels if they are ordinary.

    The caller is told what `channel_weights` and `repair` change, and when speech does not stand out from noise; `name`
    is the input's.
    """
    changes = []
    mixed = channel_weights(audio)
    if mixed is not None:
        audio = _mix(audio, mixed[0])
        changes.append(mixed[1])
    waveform_N = convert(audio, sample_rate=SPEECH_RATE, num_channels=1, num_samples=num_samples).samples_CN[0]
    if peak(iter_chunks(waveform_N)) < SILENT_PEAK:
        return waveform_N
    repaired = repair(waveform_N)
    changes += repaired.changes
    if changes:
        warn_caller(f"{name} was repaired for the lips, not for what is heard: {'; '.join(changes)}")
    if (share := _clipped_share(audio)) > MAX_CLIPPED_SHARE:
        warn_caller(
            f"{name} is clipped: {share:.0%} of its samples are at its limit, so the lips follow it less closely"
        )
    if not repaired.levels.is_speech and len(waveform_N) >= MIN_MEASURED_SECONDS * SPEECH_RATE:
        warn_caller(_describe_noise(name, repaired.levels))
    return repaired.waveform_N


def _clipped_share(audio: Audio) -> float:
    """The share of samples whose magnitude is the largest one."""
    limit = CLIPPED_PEAK * peak(iter_chunks(audio.samples_CN))
    clipped = sum(int((np.abs(chunk_CN).max(axis=0) >= limit).sum()) for chunk_CN in iter_chunks(audio.samples_CN))
    return clipped / max(1, audio.num_samples)


def _describe_noise(name: str, levels: SpeechLevels) -> str:
    return (
        f"{name}: its speech, if there is any, cannot be told from its noise: loud moments are only {levels.range:.0f} "
        "dB above quiet ones, so the lips may follow the noise; conditioning_audio can give a cleaned recording"
    )


def _mix(audio: Audio, weights_C: np.ndarray) -> Audio:
    """One channel, the weighted sum of all."""
    weights_1C = weights_C[None].astype(np.float32)
    return Audio(
        samples_CN=spool(weights_1C @ chunk for chunk in iter_chunks(audio.samples_CN)), sample_rate=audio.sample_rate
    )
