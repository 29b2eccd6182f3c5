"""Reading and converting audio files, and the error messages for files that are refused."""

import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from src.errors import InputError
from src.media.audio import read as read_module
from src.media.audio.audio import Audio
from src.media.audio.convert import convert, pad_or_trim, to_mono
from src.media.audio.read import read_audio
from tests.src.media.audio.recordings import correlation, encoded, silent_video, tones, truncated, wav

WAV_KINDS = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
# Encoder delay in formats that do not declare it: up to two frames.
MAX_DELAY = 2 * 1536


def read(path: Path, **options: float) -> Audio:
    return read_audio(path, name="first_audio", **{"max_seconds": 60.0, **options})


def refusal(path: Path, **options: float) -> str:
    """The message of the InputError."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", WAV_KINDS)
def test_wav_of_every_sample_format(tmp_path: Path, kind: str) -> None:
    samples_CN = tones(22050, 2)
    audio = read(wav(tmp_path / "upload", samples_CN, 22050, subtype=kind))
    assert audio.samples_CN.dtype == np.float32
    assert (audio.sample_rate, audio.samples_CN.shape) == (22050, samples_CN.shape)
    assert np.abs(audio.samples_CN - samples_CN).max() < (0.02 if kind in ("PCM_U8", "ULAW", "ALAW") else 1e-4)


@pytest.mark.parametrize("rate", [8000, 11025, 96000])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_wav_of_every_sample_rate_and_channel_count(tmp_path: Path, rate: int, channels: int) -> None:
    samples_CN = tones(rate, channels, seconds=0.2)
    audio = read(wav(tmp_path / "upload", samples_CN, rate, subtype="PCM_24"))
    assert (audio.sample_rate, audio.num_channels) == (rate, channels)
    assert audio.seconds == pytest.approx(0.2)
    np.testing.assert_allclose(audio.samples_CN, samples_CN, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"format": "FLAC"}, {"format": "RF64"}, {"format": "WAVEX"}, {"endian": "BIG"}, {"format": "AIFF"}]
)
def test_other_lossless_formats(tmp_path: Path, options: dict[str, str]) -> None:
    samples_CN = tones(44100, 2)
    audio = read(wav(tmp_path / "upload", samples_CN, 44100, subtype="PCM_24", **options))
    np.testing.assert_allclose(audio.samples_CN, samples_CN, atol=1e-6)


@pytest.mark.parametrize(
    ("codec", "form", "rate", "channels"),
    [
        ("libmp3lame", "mp3", 44100, 2),
        ("libmp3lame", "mp3", 8000, 1),
        ("aac", "ipod", 44100, 2),
        ("alac", "ipod", 44100, 2),
        ("libopus", "ogg", 48000, 2),
        ("libopus", "webm", 48000, 1),
        ("libopus", "ogg", 48000, 6),
        ("flac", "ogg", 44100, 2),
        ("flac", "matroska", 44100, 2),
        ("tta", "tta", 44100, 2),
    ],
)
def test_formats_with_a_declared_length_keep_every_sample(
    tmp_path: Path, codec: str, form: str, rate: int, channels: int
) -> None:
    samples_CN = tones(rate, channels)
    audio = read(encoded(tmp_path / "upload", samples_CN, rate, codec=codec, form=form))
    assert (audio.sample_rate, audio.samples_CN.shape) == (rate, samples_CN.shape)
    assert correlation(audio.samples_CN[:2], samples_CN[:2]) > 0.98


@pytest.mark.parametrize(("codec", "form"), [("aac", "adts"), ("ac3", "ac3"), ("mp2", "mpegts")])
def test_formats_without_a_declared_length_are_read_to_their_end(tmp_path: Path, codec: str, form: str) -> None:
    samples_CN = tones(48000, 2)
    audio = read(encoded(tmp_path / "upload", samples_CN, 48000, codec=codec, form=form))
    assert 0 <= audio.samples_CN.shape[1] - samples_CN.shape[1] <= MAX_DELAY


@pytest.mark.parametrize(("codec", "form"), [("aac", "mp4"), ("aac", "matroska"), ("libopus", "matroska")])
def test_audio_stream_of_a_video(tmp_path: Path, codec: str, form: str) -> None:
    samples_CN = tones(48000, 2)
    path = encoded(tmp_path / "upload", samples_CN, 48000, codec=codec, form=form, with_video=True)
    audio = read(path)
    assert abs(audio.samples_CN.shape[1] - samples_CN.shape[1]) < 1024
    assert correlation(audio.samples_CN, samples_CN) > 0.99


@pytest.mark.parametrize(("codec", "form"), [("libmp3lame", "mp3"), ("aac", "adts")])
@pytest.mark.parametrize(("rate", "channels"), [(48000, 2), (44100, 1), (22050, 2)])
def test_concatenated_files(tmp_path: Path, codec: str, form: str, rate: int, channels: int) -> None:
    """The format is one of the files', usually the first one's; mono is 3 dB softer in stereo."""
    parts = [(44100, 2), (rate, channels), (44100, 2)]
    arrays = [np.repeat(tones(rate, 1, 1.0), channels, axis=0) for rate, channels in parts]
    files = [
        encoded(tmp_path / f"{number}", samples_CN, rate, codec=codec, form=form).read_bytes()
        for number, (samples_CN, (rate, _)) in enumerate(zip(arrays, parts, strict=True))
    ]
    path = tmp_path / "upload"
    path.write_bytes(b"".join(files))
    audio = read(path)
    assert (audio.sample_rate, audio.num_channels) in parts
    assert audio.seconds == pytest.approx(3, abs=3 * MAX_DELAY / 22050)
    for first in (0.2, 1.3, 2.4):
        part_CN = audio.samples_CN[:, round(first * audio.sample_rate) : round((first + 0.5) * audio.sample_rate)]
        assert part_CN.std() == pytest.approx(arrays[0].std(), rel=0.35)


def test_wav_that_libsndfile_refuses_is_read_by_ffmpeg(tmp_path: Path) -> None:
    samples_CN = tones(22050, 1)
    audio = read(encoded(tmp_path / "upload", samples_CN, 22050, codec="adpcm_swf", form="wav"))
    assert correlation(audio.samples_CN, samples_CN) > 0.99


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, "flac"])
def test_file_written_to_a_pipe_declares_no_length(tmp_path: Path, size: int | str) -> None:
    samples_CN = tones(16000, 1)
    path = wav(tmp_path / "upload", samples_CN, 16000, format="WAV" if size != "flac" else "FLAC", subtype="PCM_16")
    data = bytearray(path.read_bytes())
    if size == "flac":
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    else:
        struct.pack_into("<I", data, 4, size)
        struct.pack_into("<I", data, data.index(b"data") + 4, size)
    path.write_bytes(data)
    np.testing.assert_allclose(read(path).samples_CN, samples_CN, atol=1e-4)


@pytest.mark.parametrize(("start", "duration"), [(0.0, None), (0.25, None), (0.0, 0.5), (0.3, 0.7), (1.0, 9.0)])
@pytest.mark.parametrize("compressed", [False, True])
def test_start_and_duration_select_exact_samples(
    tmp_path: Path, start: float, duration: float | None, compressed: bool
) -> None:
    samples_CN = tones(44100, 2)
    path = tmp_path / "upload"
    if compressed:
        encoded(path, samples_CN, 44100, codec="alac", form="mov")
    else:
        wav(path, samples_CN, 44100, subtype="FLOAT")
    part = read_audio(path, name="first_audio", start=start, duration=duration, max_seconds=60)
    first = round(start * 44100)
    end = None if duration is None else first + round(duration * 44100)
    np.testing.assert_allclose(part.samples_CN, samples_CN[:, first:end], atol=1e-4)


@pytest.mark.parametrize(
    ("codec", "form"),
    [("libmp3lame", "mp3"), ("flac", "flac"), ("flac", "matroska"), ("libopus", "webm"), ("pcm_s16be", "aiff")],
)
def test_truncated_file_is_refused_with_both_lengths(tmp_path: Path, codec: str, form: str) -> None:
    path = encoded(tmp_path / "upload", tones(48000, 2, seconds=3), 48000, codec=codec, form=form)
    message = refusal(truncated(path))
    assert message.startswith("first_audio: ")
    assert "cut off: its header declares 3.0" in message
    assert "but it holds" in message


def test_truncated_mp4_is_refused(tmp_path: Path) -> None:
    path = encoded(
        tmp_path / "upload", tones(48000, 2, 3), 48000, codec="aac", form="mp4", options={"movflags": "+faststart"}
    )
    assert "declares 3.00 s of audio" in refusal(truncated(path))


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
def test_truncated_wav_is_refused_with_both_lengths(tmp_path: Path, order: str) -> None:
    path = wav(tmp_path / "upload", tones(16000, 1, seconds=2), 16000, subtype="PCM_16", endian=order)
    assert "its header declares 2.00 s of audio, but it holds 1.00 s" in refusal(truncated(path))


def test_intact_part_of_a_truncated_file_can_be_read(tmp_path: Path) -> None:
    path = truncated(wav(tmp_path / "upload", tones(16000, 1, seconds=2), 16000, subtype="PCM_16"))
    assert read(path, duration=0.5).seconds == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_samples_are_refused(tmp_path: Path, value: float) -> None:
    samples_CN = tones(16000, 1)
    samples_CN[0, 12000] = value
    path = wav(tmp_path / "upload", samples_CN, 16000, subtype="FLOAT")
    assert "first_audio has NaN or infinite samples near 0.8 s" in refusal(path)
    assert read(path, duration=0.5).seconds == 0.5


def test_less_than_one_frame_is_refused(tmp_path: Path) -> None:
    path = wav(tmp_path / "upload", tones(16000, 1, seconds=0.03), 16000)
    assert "first_audio lasts 0.030 s; at least 0.04 s" in refusal(path)
    assert read(wav(tmp_path / "enough", tones(16000, 1, seconds=0.04), 16000)).seconds == 0.04


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("start", 2.5, "audio_start is 2.5 s, but first_audio ends at 2.00 s"),
        ("start", 1.99, "audio_start 1.99 s leaves 0.010 s of first_audio; at least 0.04 s"),
        *(("start", value, f"audio_start is {value} s; it must be 0 or more") for value in (-1.0, np.nan, np.inf)),
        *(
            ("duration", value, f"audio_duration is {value} s; it must be at least 0.04 s")
            for value in (0.0, -2.0, 0.03, np.nan, np.inf)
        ),
    ],
)
def test_invalid_start_or_duration_is_refused(tmp_path: Path, name: str, value: float, words: str) -> None:
    path = wav(tmp_path / "upload", tones(16000, 1, seconds=2), 16000)
    assert words in refusal(path, **{name: value})


def test_start_beyond_max_start_seconds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped audio has to be decoded: a small file of silence would keep a server busy for hours."""
    monkeypatch.setattr(read_module, "MAX_START_SECONDS", 1)
    path = wav(tmp_path / "upload", tones(16000, 1, seconds=4), 16000, format="FLAC")
    assert read(path, start=0.9, duration=1).seconds == 1
    assert "audio_start is 3 s, and first_audio continues after 1 s, the most that can be skipped" in refusal(
        path, start=3
    )


def test_more_than_max_seconds_is_refused(tmp_path: Path) -> None:
    path = wav(tmp_path / "upload", tones(16000, 1, seconds=3), 16000)
    message = refusal(path, max_seconds=2)
    assert "first_audio lasts more than 2" in message
    assert "at most 2 s of audio are allowed (the operator sets MAX_SECONDS)" in message
    assert read(path, max_seconds=3).seconds == 3
    assert read(path, max_seconds=2, duration=2).seconds == 2
    assert read(path, max_seconds=2, start=1).seconds == 2


def test_reading_stops_at_max_seconds(tmp_path: Path) -> None:
    """Damage beyond the limit is never reached: the error is about the limit."""
    path = encoded(tmp_path / "upload", tones(48000, 1, seconds=20), 48000, codec="libmp3lame", form="mp3")
    assert "lasts more than" in refusal(truncated(path), max_seconds=1)


def test_huge_declared_length_allocates_nothing(tmp_path: Path) -> None:
    path = wav(tmp_path / "upload", tones(16000, 1, seconds=0.5), 16000, format="FLAC", subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    assert "its header declares 4294967.30 s of audio" in refusal(path)


@pytest.mark.parametrize("channels", [65, 1000, 60000])
def test_too_many_channels_are_refused(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "upload"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(1)
        file.setframerate(16000)
        file.writeframes(bytes(channels * 16))
    assert refusal(path).startswith("first_audio")


def test_implausible_sample_rate_is_refused(tmp_path: Path) -> None:
    path = wav(tmp_path / "upload", tones(16000, 1), 10)
    assert "first_audio has a sample rate of 10 Hz; 1,000 to 768,000 are allowed" in refusal(path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "(0 bytes) is empty"),
        (b"hello, this is a shopping list\n" * 40, "(1,240 bytes, begins with the text 'hello, this is a sho')"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "looks like a PNG image"),
        (b"%PDF-1.7\n" + bytes(100), "looks like a PDF document"),
        (bytes(range(128, 256)) * 50, "begins with the bytes 80 81 82 83 84 85 86 87"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "looks like WAV audio"),
        (b"RIFF", "begins with the text 'RIFF'"),
        (b"ID3\x04\0\0\0\0\0\x0a" + bytes(500), "looks like MP3 audio"),
    ],
)
def test_other_files_are_described_in_the_error(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "upload"
    path.write_bytes(data)
    message = refusal(path)
    assert message.startswith("first_audio: the file (")
    assert expected in message
    assert "needed" in message


def test_error_names_the_file_if_it_has_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("milk, eggs")
    assert "the file 'notes.txt' (10 bytes" in refusal(tmp_path / "notes.txt")
    assert "the file 'nowhere.wav' does not exist" in refusal(tmp_path / "nowhere.wav")
    (tmp_path / "album").mkdir()
    assert "'album' is a folder" in refusal(tmp_path / "album")


def test_video_without_audio_is_refused(tmp_path: Path) -> None:
    message = refusal(silent_video(tmp_path / "upload"))
    assert "looks like an MP4 video) has no audio stream" in message


def test_playlist_opens_no_other_file(tmp_path: Path) -> None:
    wav(tmp_path / "secret.wav", tones(16000, 1), 16000)
    (tmp_path / "upload").write_text("ffconcat version 1.0\nfile 'secret.wav'\n")
    refusal(tmp_path / "upload")
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.5,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"
    )
    refusal(tmp_path / "list.m3u8")


def test_random_damage_raises_nothing_but_input_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sources = [wav(tmp_path / "w", tones(16000, 2, 0.5), 16000, subtype="PCM_16")]
    codecs = ("aac", "libmp3lame", "libopus", "flac", "flac")
    for codec, form in zip(codecs, ("mp4", "mp3", "ogg", "flac", "matroska"), strict=True):
        sources.append(encoded(tmp_path / form, tones(48000, 2, 0.5), 48000, codec=codec, form=form))
    for source in sources:
        whole = source.read_bytes()
        for _ in range(15):
            data = bytearray(whole)
            for position in random.integers(0, random.choice([64, 400, len(data)]), size=4):
                data[position] = random.integers(0, 256)
            (tmp_path / "upload").write_bytes(data)
            try:
                audio = read(tmp_path / "upload")
            except InputError as error:
                assert str(error).startswith(("first_audio", "audio_start"))  # noqa: PT017
            else:
                assert np.isfinite(audio.samples_CN).all()


def test_to_mono_averages_and_resamples() -> None:
    left_N = tones(48000, 1)[0]
    audio = Audio(samples_CN=np.stack([left_N, np.zeros_like(left_N)]), sample_rate=48000)
    mono_N = to_mono(audio, 16000)
    assert mono_N.dtype == np.float32
    assert mono_N.shape == (24000,)
    assert np.abs(mono_N - tones(16000, 1)[0] / 2)[200:-200].max() < 2e-3


def test_to_mono_of_empty_audio_is_empty() -> None:
    assert to_mono(Audio(samples_CN=np.zeros((2, 0), np.float32), sample_rate=44100), 16000).shape == (0,)


def test_convert_copies_mono_to_the_front_pair() -> None:
    samples_CN = tones(16000, 1)
    wide = convert(Audio(samples_CN=samples_CN, sample_rate=16000), sample_rate=16000, num_channels=6)
    np.testing.assert_array_equal(wide.samples_CN[:2], np.repeat(samples_CN, 2, axis=0))
    assert not wide.samples_CN[2:].any()


def test_convert_to_stereo_keeps_every_channel() -> None:
    """From seven channels to two nothing is lost, and left and right stay separate."""
    samples_CN = tones(16000, 7)
    stereo = convert(Audio(samples_CN=samples_CN, sample_rate=16000), sample_rate=16000, num_channels=2)
    np.testing.assert_allclose(stereo.samples_CN[0] - stereo.samples_CN[1], samples_CN[0] - samples_CN[1], atol=1e-6)
    center_N = np.sqrt(0.5) * samples_CN[2:].mean(axis=0)
    np.testing.assert_allclose(stereo.samples_CN - samples_CN[:2], np.stack([center_N] * 2), atol=1e-6)


@pytest.mark.parametrize("samples", [0, 100, 24000, 30000])
def test_pad_or_trim(samples: int) -> None:
    samples_CN = tones(16000, 2)
    changed_CN = pad_or_trim(Audio(samples_CN=samples_CN, sample_rate=16000), samples).samples_CN
    assert changed_CN.shape == (2, samples)
    np.testing.assert_array_equal(changed_CN[:, :24000], samples_CN[:, :samples])
    assert not changed_CN[:, 24000:].any()


@pytest.mark.parametrize(("count", "allowed"), [(32, True), (33, False)])
def test_too_many_streams_are_refused(tmp_path: Path, count: int, allowed: bool) -> None:
    path = tmp_path / "upload"
    with av.open(path, "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(count)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8_000), np.int16), format="s16", layout="mono")
            frame.rate, frame.pts = 16_000, 0
            container.mux(stream.encode(frame))
    if allowed:
        assert read(path).seconds == pytest.approx(0.5)
    else:
        assert "has 33 streams; at most 32 are allowed" in refusal(path)
