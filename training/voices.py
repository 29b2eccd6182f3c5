"""Training voices: a formant synthesizer, eSpeak NG if it is installed, and added noise and music.

Waveforms are mono float32 at 16 kHz.
"""

import io
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from src.media.rates import SPEECH_RATE

Waveform = NDArray[np.float32]

# First three formants in Hz of an average vocal tract (Peterson & Barney 1952, rounded).
VOWELS = (
    (270, 2290, 3010),
    (390, 1990, 2550),
    (530, 1840, 2480),
    (660, 1720, 2410),
    (730, 1090, 2440),
    (570, 840, 2410),
    (440, 1020, 2240),
    (300, 870, 2240),
)
_BANDWIDTHS = (70.0, 100.0, 140.0)
_SENTENCES = (
    "good morning, how are you today?",
    "the yellow garden is by the river.",
    "seven little apples for my brother and sister.",
    "we never go to the mountain in winter.",
    "hello, please open the window, thank you.",
    "do you remember the music of that summer?",
    "a baker sold me bread, butter, and tomato soup.",
    "where are we going together tonight?",
    "slowly the silver ocean came over the table.",
    "people like water and beautiful animals.",
    "oh yes, I will always be under the blue door.",
    "what a happy finger on a golden button!",
)

ESPEAK_VARIANTS = {"train": ("m1", "m2", "m3", "m6", "f1", "f2", "f5"), "held-out": ("m4", "m7", "f3", "f4")}
"""eSpeak NG voices; those for training and evaluation are disjoint."""
PITCHES = {"train": ((75.0, 120.0), (150.0, 210.0), (240.0, 320.0)), "held-out": ((120.0, 150.0), (210.0, 240.0))}
"""Ranges of the mean pitch of synthetic voices in Hz, disjoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Speech without noise, and the same with noise and music."""

    clean: Waveform
    noisy: Waveform


def sample_voice(rng: np.random.Generator, seconds: float, split: str, kind: str | None = None) -> Voice:
    """Sample speech of about `seconds`; `kind` is "synthetic", "espeak", or None for either, if installed."""
    if kind is None:
        kind = "espeak" if shutil.which("espeak-ng") and rng.random() < 0.5 else "synthetic"
    clean = synthesize_espeak(rng, seconds, split) if kind == "espeak" else synthesize_formants(rng, seconds, split)
    return Voice(clean=clean, noisy=add_noise(rng, clean))


def synthesize_formants(rng: np.random.Generator, seconds: float, split: str) -> Waveform:
    """Random syllables (consonant, vowel) and pauses of one source-filter voice (Fant 1960)."""
    low, high = PITCHES[split][rng.integers(len(PITCHES[split]))]
    pitch, tract = rng.uniform(low, high), rng.uniform(0.85, 1.2)
    rate = rng.uniform(0.75, 1.3)
    parts: list[NDArray[np.float64]] = []
    total, until_pause = 0, rng.integers(2, 8)
    while total < seconds * SPEECH_RATE:
        parts += _syllable(rng, pitch, tract, rate)
        until_pause -= 1
        if until_pause == 0:
            parts.append(np.zeros(int(rng.uniform(0.15, 0.9) * SPEECH_RATE)))
            until_pause = rng.integers(2, 8)
        total = sum(map(len, parts))
    return _normalize_peak(np.concatenate(parts)[: int(seconds * SPEECH_RATE)])


def _syllable(rng: np.random.Generator, pitch: float, tract: float, rate: float) -> list[NDArray[np.float64]]:
    consonant = int(rng.uniform(0.03, 0.09) / rate * SPEECH_RATE)
    vowel = int(rng.uniform(0.09, 0.26) / rate * SPEECH_RATE)
    kind = rng.integers(3)
    noise = rng.standard_normal(consonant)
    if kind == 0:  # a stop
        onset = np.zeros(consonant)
    elif kind == 1:  # a fricative
        onset = 0.06 * np.diff(noise, prepend=0.0) * np.hanning(consonant)
    else:  # a nasal
        onset = 0.25 * _resonate(_glottal_source(rng, consonant, pitch), (250.0, 1200.0, 2200.0))
    formants = np.array(VOWELS[rng.integers(len(VOWELS))]) * tract
    envelope = np.sin(np.linspace(0, np.pi, vowel)) ** rng.uniform(0.4, 1.0) * rng.uniform(0.3, 1.0)
    return [onset, _resonate(_glottal_source(rng, vowel, pitch), formants) * envelope]


def _glottal_source(rng: np.random.Generator, length: int, pitch: float) -> NDArray[np.float64]:
    """A pulse train of gliding pitch with jitter and breath noise."""
    contour = pitch * np.linspace(rng.uniform(0.85, 1.2), rng.uniform(0.85, 1.2), length)
    phase = np.cumsum(contour * (1 + 0.02 * rng.standard_normal(length)) / SPEECH_RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    return lfilter([1.0], [1.0, -0.9], pulses) + 0.01 * rng.standard_normal(length)


def _resonate(source: NDArray[np.float64], formants: object) -> NDArray[np.float64]:
    """A cascade of two-pole resonators, normalized to an RMS of 1."""
    waveform = source
    for formant, width in zip(np.asarray(formants, float), _BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * width / SPEECH_RATE)
        angle = 2 * np.pi * formant / SPEECH_RATE
        waveform = lfilter([1 - radius], [1.0, -2 * radius * np.cos(angle), radius**2], waveform)
    return waveform / (np.sqrt(np.mean(waveform**2)) + 1e-9)


def synthesize_espeak(rng: np.random.Generator, seconds: float, split: str) -> Waveform:
    """Random words spoken by eSpeak NG. Raises FileNotFoundError if it is not installed."""
    import librosa  # here: the GPU benchmark imports this module where the audio packages are missing
    import soundfile

    words = rng.permutation(" ".join(_SENTENCES).split())[: max(2, round(seconds * 2.5))]
    variant = ESPEAK_VARIANTS[split][rng.integers(len(ESPEAK_VARIANTS[split]))]
    command = ["espeak-ng", "-v", f"en+{variant}", "-s", str(rng.integers(120, 190)), "-p", str(rng.integers(20, 80))]
    spoken = subprocess.run([*command, "--stdout", " ".join(words)], capture_output=True, check=True).stdout
    waveform, rate = soundfile.read(io.BytesIO(spoken), dtype="float32")
    waveform = librosa.resample(waveform, orig_sr=rate, target_sr=SPEECH_RATE, res_type="soxr_hq")
    length = int(seconds * SPEECH_RATE)
    return _normalize_peak(np.pad(waveform, (0, max(0, length - len(waveform))))[:length])


def add_noise(rng: np.random.Generator, clean: Waveform) -> Waveform:
    """Add noise (in half of the calls) and chords (in a quarter) at 15 to 45 dB below the voice."""
    mixed = clean.astype(np.float64)
    level = np.sqrt(np.mean(mixed**2))
    if rng.random() < 0.5:
        hiss = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.95)], rng.standard_normal(len(clean)))
        mixed += hiss / hiss.std() * level * 10 ** (-rng.uniform(20, 45) / 20)
    if rng.random() < 0.25:
        mixed += _chords(rng, len(clean)) * level * 10 ** (-rng.uniform(15, 35) / 20)
    return _normalize_peak(mixed)


def _chords(rng: np.random.Generator, length: int) -> NDArray[np.float64]:
    """Sine triads that change about every half second, RMS about 1."""
    time = np.arange(length) / SPEECH_RATE
    music = np.zeros(length)
    beat = int(rng.uniform(0.3, 0.8) * SPEECH_RATE)
    for start in range(0, length, beat):
        root = 110 * 2 ** (rng.integers(0, 24) / 12)
        for interval in (0, 4, 7):
            music[start : start + beat] += np.sin(2 * np.pi * root * 2 ** (interval / 12) * time[start : start + beat])
    return music


def _normalize_peak(waveform: NDArray[np.float64] | Waveform, peak: float = 0.6) -> Waveform:
    return (waveform * (peak / (np.abs(waveform).max() + 1e-9))).astype(np.float32)
