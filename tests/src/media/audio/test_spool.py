"""Long audio is stored in files and read as arrays."""

import itertools
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from src.audio_analysis.timeline import mix
from src.media.audio.audio import Audio
from src.media.audio.convert import convert, pad_or_trim, to_mono
from src.media.audio.read import read_audio
from src.media.audio.spool import CHUNK_SAMPLES, MAX_IN_MEMORY, iter_chunks, peak, release_pages, spool, zeros

RATE = 16_000
MEBIBYTE = 1 << 20


def noise(channels: int, samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("values", [0, 10, MAX_IN_MEMORY // 4, MAX_IN_MEMORY // 4 + 20, MAX_IN_MEMORY])
def test_spool_concatenates_chunks(channels: int, values: int) -> None:
    samples_CN = noise(channels, values // channels)
    spooled_CN = spool(iter_chunks(samples_CN))
    assert spooled_CN.dtype == np.float32
    np.testing.assert_array_equal(spooled_CN, samples_CN)
    np.testing.assert_array_equal(np.concatenate(list(iter_chunks(spooled_CN[:, 3:])), axis=1), samples_CN[:, 3:])
    assert peak(iter_chunks(spooled_CN)) == np.abs(samples_CN).max(initial=0)


def test_zeros_are_chunked() -> None:
    assert [part.shape for part in zeros(2, 2 * CHUNK_SAMPLES + 1)] == [(2, CHUNK_SAMPLES), (2, CHUNK_SAMPLES), (2, 1)]


def test_released_pages_can_be_read_again() -> None:
    samples_CN = spool(iter_chunks(noise(1, MAX_IN_MEMORY)))
    before = samples_CN[0, 1000:].copy()
    release_pages(samples_CN[:, 5:])
    np.testing.assert_array_equal(samples_CN[0, 1000:], before)
    release_pages(before)


@pytest.mark.parametrize(
    ("rate", "target", "channels"), [(44_100, 16_000, 1), (16_000, 48_000, 2), (22_050, 44_100, 1)]
)
def test_chunked_resampling_equals_whole_resampling(rate: int, target: int, channels: int) -> None:
    samples_CN = noise(channels, 3 * CHUNK_SAMPLES + 12_345)
    converted = convert(Audio(samples_CN=samples_CN, sample_rate=rate), sample_rate=target, num_channels=channels)
    expected_CN = librosa.resample(samples_CN, orig_sr=rate, target_sr=target, res_type="soxr_hq")
    assert converted.samples_CN.shape == expected_CN.shape
    np.testing.assert_allclose(converted.samples_CN, expected_CN, atol=1e-6)


def resident(kind: str = "VmRSS") -> int:
    """Resident memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """Reading, mixing, normalizing and resampling; each whole array would take 77 MB."""
    seconds = 1200
    with soundfile.SoundFile(tmp_path / "long.wav", "w", RATE, 1) as file:
        for _ in range(seconds):
            file.write(noise(1, RATE)[0])

    def prepare(duration: float) -> int:
        """The largest increase of resident memory, sampled after each step."""
        before = resident()
        voice = read_audio(tmp_path / "long.wav", name="first_audio", duration=duration, max_seconds=seconds)
        timeline = mix((voice, voice), "para", num_frames=round(25 * duration))
        samples = [resident()]
        samples.append(
            to_mono(pad_or_trim(timeline.soundtrack, round(RATE * duration) + 7), 24_000).size and resident()
        )
        assert len(timeline.waveforms[0]) == round(RATE * duration)
        return max(samples) - before

    prepare(20)
    assert prepare(seconds) - prepare(20) < 24 * MEBIBYTE


def test_long_file_is_read_unchanged(tmp_path: Path) -> None:
    samples_CN = noise(2, MAX_IN_MEMORY)
    soundfile.write(tmp_path / "long.wav", samples_CN.T, 48_000, subtype="FLOAT")
    audio = read_audio(tmp_path / "long.wav", name="first_audio", max_seconds=600)
    assert all(
        np.array_equal(*both) for both in itertools.zip_longest(iter_chunks(audio.samples_CN), iter_chunks(samples_CN))
    )
