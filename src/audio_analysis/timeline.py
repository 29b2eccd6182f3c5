"""Who is heard when: voices laid out in time, one track a person and one soundtrack of all.

N samples, C channels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import Literal, get_args

import numpy as np

from src.audio_analysis.loudness import normalize
from src.errors import InputError
from src.media.audio.audio import MAX_VALUES, Audio, convert, pad_or_trim, to_mono
from src.media.audio.spool import iter_chunks, peak, spool, zeros
from src.media.rates import FPS, SAMPLES_PER_FRAME, SPEECH_RATE

# -80 dBFS, three steps of 16 bits: above the dither of a silent recording, below any voice.
SILENT_PEAK = 1e-4

Mode = Literal["add", "para"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What the video sounds like, and what each person says.

    `soundtrack` has the callers' own quality; `tracks` are (N,) float32 of 16 kHz, normalised to -23 LUFS,
    one a person and all equally long.
    """

    soundtrack: Audio
    waveforms: tuple[np.ndarray, ...]

    @property
    def num_frames(self) -> int:
        """Frames of 25 fps video that the soundtrack lasts: rounded as Python rounds, at least one."""
        sound = self.soundtrack
        return max(1, round(Fraction(FPS * sound.samples_CN.shape[1], sound.sample_rate)))


def mix(voices: Sequence[Audio], mode: Mode, conditioning: Sequence[Audio] | None = None) -> Timeline:
    """Lay out one or two voices, the first person's first.

    The soundtrack is made from the voices, and so are the waveforms unless `conditioning` is given: one
    recording for each voice, such as the same without its music, cut or padded to the voice's length.

    `add`: one after the other, a track is silent while the other person speaks. `para`: together, the
    shorter is silent at its end. Loudness is normalised before silence is added.
    The soundtrack of two has the higher rate and the larger number of channels of both (one channel is
    copied to the front pair); where the sum of two exceeds full scale, the whole is scaled down to it.
    Raises InputError for another mode or number of voices, and when no voice is above SILENT_PEAK (a
    silent or empty voice beside an audible one is a person who listens).
    """
    if mode not in get_args(Mode):
        raise InputError(f"audio_mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
    if len(voices) not in (1, 2):
        raise InputError(f"{len(voices)} voices are given; the model knows one or two people who speak")
    _check_audible(conditioning or voices, voices)
    tracks = [_waveform(*pair) for pair in zip(conditioning or voices, voices, strict=True)]
    if len(voices) == 1:
        return Timeline(soundtrack=voices[0], waveforms=tuple(tracks))
    place = _sequential if mode == "add" else _parallel
    return Timeline(soundtrack=_mixed(voices, place), waveforms=tuple(place(tracks)))


def pad_to_frames(timeline: Timeline, frames: int) -> Timeline:
    """A timeline for exactly `frames` frames of video.

    The soundtrack is cut or padded with silence to their length; tracks are padded to it but never cut,
    since the speech encoder hears a person's whole track.
    """
    sound = timeline.soundtrack
    samples = round(Fraction(frames * sound.sample_rate, FPS))
    least = frames * SAMPLES_PER_FRAME
    waveforms = tuple(_padded(track_N, after=max(0, least - len(track_N))) for track_N in timeline.waveforms)
    return replace(timeline, soundtrack=pad_or_trim(sound, samples), waveforms=waveforms)


def _waveform(heard: Audio, voice: Audio) -> np.ndarray:
    """What the speech encoder hears in place of a voice: (N,) float32 of its length."""
    track_N = to_mono(heard, SPEECH_RATE)
    if heard is not voice:
        samples = math.ceil(Fraction(voice.samples_CN.shape[1] * SPEECH_RATE, voice.sample_rate))
        track_N = _padded(track_N[:samples], after=max(0, samples - len(track_N)))
    return normalize(track_N, SPEECH_RATE)


def _check_audible(heard: Sequence[Audio], voices: Sequence[Audio]) -> None:
    loudest = max(peak(sound.samples_CN) for sound in heard)
    if loudest < SILENT_PEAK:
        named = zip(("first_audio", "second_audio"), heard, voices, strict=False)
        names = " and ".join(name if sound is voice else "conditioning_audio" for name, sound, voice in named)
        reason = f"nothing can be heard, its loudest sample is {loudest:g}"
        raise InputError(f"{names}: {reason}; at least {SILENT_PEAK:g} of full scale is needed")


Placement = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def _sequential(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Two signals, samples on the last axis, so that the second begins where the first ends."""
    first, second = parts
    return [_padded(first, after=second.shape[-1]), _padded(second, before=first.shape[-1])]


def _parallel(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Signals, samples on the last axis, that begin together, with silence up to the end of the longest."""
    longest = max(part.shape[-1] for part in parts)
    return [_padded(part, after=longest - part.shape[-1]) for part in parts]


def _padded(signal: np.ndarray, *, before: int = 0, after: int = 0) -> np.ndarray:
    if not before and not after:
        return signal
    rows_CN = np.atleast_2d(signal)
    count = len(rows_CN)
    padded_CN = spool(chain(zeros(count, before), iter_chunks(rows_CN), zeros(count, after)))
    return padded_CN if signal.ndim == 2 else padded_CN[0]


def _check_mix(voices: Sequence[Audio], rate: int, channels: int) -> None:
    """InputError when a long sound of low quality beside a short one of high quality would fill the memory."""
    values = round(sum(voice.seconds for voice in voices) * rate) * channels
    if values > MAX_VALUES:
        raise InputError(
            f"first_audio and second_audio are mixed at {rate:,} Hz in {channels} channels, which makes {values:,} "
            f"samples; at most {MAX_VALUES:,} are allowed, so convert both to a lower rate or to stereo"
        )


def _mixed(voices: Sequence[Audio], place: Placement) -> Audio:
    """The sum of the voices where `place` puts them, scaled down to full scale where it exceeds it."""
    rate = max(voice.sample_rate for voice in voices)
    channels = max(voice.num_channels for voice in voices)
    _check_mix(voices, rate, channels)
    parts = [convert(voice, sample_rate=rate, num_channels=channels).samples_CN for voice in voices]
    placed = place(parts)
    sum_CN = spool(np.sum(both, axis=0) for both in zip(*map(iter_chunks, placed), strict=True))
    loudest = peak(sum_CN)
    if loudest > 1:
        sum_CN = spool(piece_CN / loudest for piece_CN in iter_chunks(sum_CN))
    return Audio(samples_CN=sum_CN, sample_rate=rate)
