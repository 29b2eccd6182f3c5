"""Voices placed in time: one waveform per person for the speech encoder, and the soundtrack of the video.

N samples, C channels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from itertools import chain
from typing import Literal, get_args

import numpy as np

from src.audio_analysis.loudness import normalization_gain
from src.audio_analysis.speech_waveform import SILENT_PEAK, speech_waveform
from src.errors import InputError
from src.media.audio.audio import MAX_VALUES, Audio
from src.media.audio.convert import convert, converted_length, pad_or_trim
from src.media.audio.spool import CHUNK_SAMPLES, amplitude, iter_chunks, peak, release_pages, spool, zeros
from src.media.rates import FPS, SAMPLES_PER_FRAME, SPEECH_RATE, samples_at

NAMES = ("first_audio", "second_audio")
"""The inputs of the voices."""

Mode = Literal["add", "para"]
"""One voice after the other, or both from the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """`soundtrack` in the quality of the inputs; `waveforms` (N,) float32 at 16 kHz and -23 LUFS.

    One waveform per person, all of the same length.
    """

    soundtrack: Audio
    waveforms: tuple[np.ndarray, ...]


def mix(
    voices: Sequence[Audio], mode: Mode, *, conditioning: Sequence[Audio] | None = None, num_frames: int | None = None
) -> Timeline:
    """Place one or two voices in time, the first person's first.

    `add`: one after the other; a person's waveform is silent while the other one speaks. `para`: both from the start;
    the shorter one is padded with silence. Loudness is normalized before padding.

    The soundtrack is made of the voices, and so are the waveforms unless `conditioning` is given: one recording for
    each voice, such as the same without its music, cut or padded to the voice's length. Two voices are mixed at the
    higher sample rate and the larger number of channels (mono is copied to the front pair), and scaled down as a whole
    if the sum exceeds full scale.

    With `num_frames`, the soundtrack is cut or padded to that many video frames, and the waveforms are padded but never
    cut, because the speech encoder processes a person's whole waveform.

    Raises InputError for another mode or number of voices, and if no voice is above SILENT_PEAK (a silent or empty
    voice beside an audible one is a listening person).
    """
    conditioning = conditioning or voices
    _check_mode(voices, mode)
    names = [
        name if audio is voice else f"conditioning_audio (number {number})"
        for number, (name, audio, voice) in enumerate(zip(NAMES, conditioning, voices, strict=False), 1)
    ]
    _check_mix(voices)
    _check_audible(conditioning, names)
    speech = [_to_speech(*each) for each in zip(conditioning, voices, names, strict=True)]
    offsets, length = _place([len(waveform_N) for waveform_N in speech], mode)
    length = max(length, (num_frames or 0) * SAMPLES_PER_FRAME)
    waveforms = tuple(
        _normalize_and_pad(waveform_N, offset, length) for waveform_N, offset in zip(speech, offsets, strict=True)
    )
    return Timeline(soundtrack=_soundtrack(voices, mode, num_frames), waveforms=waveforms)


def count_frames(voices: Sequence[Audio], mode: Mode) -> int:
    """The length of the mixed voices in video frames: rounded half to even, at least one."""
    _check_mode(voices, mode)
    sample_rate = max(voice.sample_rate for voice in voices)
    _, length = _place([converted_length(voice, sample_rate) for voice in voices], mode)
    return max(1, round(Fraction(FPS * length, sample_rate)))


def _check_mode(voices: Sequence[Audio], mode: Mode) -> None:
    if mode not in get_args(Mode):
        raise InputError(f"audio_mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
    if len(voices) not in (1, 2):
        raise InputError(f"{len(voices)} voices are given; the model supports one or two")


def _check_audible(conditioning: Sequence[Audio], names: Sequence[str]) -> None:
    loudest = max(amplitude(iter_chunks(audio.samples_CN)) for audio in conditioning)
    if loudest < SILENT_PEAK:
        raise InputError(
            f"{' and '.join(names)}: the audio is silent, its amplitude is {loudest:g}; at least {SILENT_PEAK:g} of "
            "full scale is needed"
        )


def _place(lengths: Sequence[int], mode: Mode) -> tuple[list[int], int]:
    """Where each voice starts, and where the last one ends, in samples."""
    if mode == "para" or len(lengths) == 1:
        return [0] * len(lengths), max(lengths)
    return [0, lengths[0]], sum(lengths)


def _to_speech(conditioning: Audio, voice: Audio, name: str) -> np.ndarray:
    """What the speech encoder receives for a voice, as long as the voice: (N,) float32 at 16 kHz."""
    num_samples = None
    if conditioning is not voice:
        num_samples = math.ceil(Fraction(voice.num_samples * SPEECH_RATE, voice.sample_rate))
    return speech_waveform(conditioning, name=name, num_samples=num_samples)


def _normalize_and_pad(waveform_N: np.ndarray, offset: int, length: int) -> np.ndarray:
    """The waveform at -23 LUFS, from `offset` on, in silence of `length` samples."""
    gain = normalization_gain(waveform_N, SPEECH_RATE)
    scaled = (chunk_N.astype(np.float64)[None] * gain for chunk_N in iter_chunks(waveform_N))
    return spool(chain(zeros(1, offset), scaled, zeros(1, length - offset - len(waveform_N))))[0]


def _soundtrack(voices: Sequence[Audio], mode: Mode, num_frames: int | None) -> Audio:
    """The voices mixed, as long as they are or as `num_frames`."""
    sample_rate = max(voice.sample_rate for voice in voices)
    num_samples = None if num_frames is None else samples_at(sample_rate, num_frames)
    if len(voices) == 1:
        return voices[0] if num_samples is None else pad_or_trim(voices[0], num_samples)
    num_channels = max(voice.num_channels for voice in voices)
    parts = [convert(voice, sample_rate=sample_rate, num_channels=num_channels).samples_CN for voice in voices]
    offsets, length = _place([part_CN.shape[1] for part_CN in parts], mode)
    scale = max(peak(_sum_chunks(parts, offsets, length)), 1)
    mixed = _sum_chunks(parts, offsets, length if num_samples is None else num_samples)
    return Audio(samples_CN=spool(chunk_CN / scale for chunk_CN in mixed), sample_rate=sample_rate)


def _check_mix(voices: Sequence[Audio]) -> None:
    """Raises InputError if a long voice of low quality beside a short one of high quality would exhaust the memory."""
    sample_rate, num_channels = max(voice.sample_rate for voice in voices), max(voice.num_channels for voice in voices)
    num_values = round(sum(voice.seconds for voice in voices) * sample_rate) * num_channels
    if len(voices) > 1 and num_values > MAX_VALUES:
        raise InputError(
            f"first_audio and second_audio are mixed at {sample_rate:,} Hz in {num_channels} channels, which makes "
            f"{num_values:,} samples; at most {MAX_VALUES:,} are allowed, so convert both to a lower sample rate or to "
            "stereo"
        )


def _sum_chunks(parts: Sequence[np.ndarray], offsets: Sequence[int], length: int) -> Iterator[np.ndarray]:
    """Chunks (C, n) of the sum of `parts` (C, N), each starting at its offset, cut or zero-padded to `length`."""
    for start in range(0, max(1, length), CHUNK_SAMPLES):
        size = min(CHUNK_SAMPLES, length - start)
        pieces = (_slice(part_CN, start - offset, size) for part_CN, offset in zip(parts, offsets, strict=True))
        yield reduce(np.add, pieces)
        for part_CN in parts:
            release_pages(part_CN)


def _slice(samples_CN: np.ndarray, start: int, size: int) -> np.ndarray:
    """`size` samples from `start` on, which may be negative or beyond the end; zeros outside the array."""
    inside_CN = samples_CN[:, max(start, 0) : max(start + size, 0)]
    before = min(max(-start, 0), size)
    return np.pad(inside_CN, ((0, 0), (before, size - before - inside_CN.shape[1])))
