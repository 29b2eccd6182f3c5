"""Small files whose index declares more samples than fit into memory."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from src.errors import InputError
from src.media.audio.read import read_audio
from src.media.file_type import probe
from src.media.video.frame_reader import FrameReader
from src.media.video.mp4_index import check_index_size
from tests.src.media.video.video_files import write_video

MANY = 100_000_000


def check(path: Path) -> None:
    with path.open("rb") as data:
        check_index_size(data, probe(path, name="image"))


def declaring(path: Path, samples: int) -> Path:
    """The file with that many samples of one byte in one chunk of its first track."""
    data = bytearray(path.read_bytes())
    for table, offset, values in ((b"stsz", 8, (1, samples)), (b"stsc", 16, (samples,)), (b"stts", 12, (samples,))):
        first = data.index(table) + offset
        data[first : first + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)
    path.write_bytes(data)
    return path


def test_video_with_too_many_samples(tmp_path: Path) -> None:
    path = declaring(write_video(tmp_path / "a.mp4"), MANY)
    with pytest.raises(InputError, match=r"image: the file 'a.mp4' .* index of 100,000,000 samples.*at most 4,000,000"):
        FrameReader(probe(path, name="image"), max_seconds=600)


def test_fragment_with_too_many_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(write_video(path).read_bytes() + struct.pack(">I4sI4s2I", 24, b"moof", 16, b"trun", 0, MANY))
    with pytest.raises(InputError, match="100,000,012 samples"):
        check(path)


def test_audio_with_too_many_samples(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.m4a", "aac", "ipod", np.zeros((1, 48_000), np.float32))
    assert read_audio(path, name="first_audio", max_seconds=600).seconds == pytest.approx(1)
    with pytest.raises(InputError, match=r"first_audio.*at most 4,000,000"):
        read_audio(declaring(path, MANY), name="first_audio", max_seconds=600)


def test_long_pcm_audio_is_allowed(tmp_path: Path) -> None:
    """A hundred seconds of PCM are 4.8 million samples, of which FFmpeg lists only the chunks."""
    path = write_audio(tmp_path / "a.mov", "pcm_s16le", "mov", np.zeros((1, 4_800_000), np.float32))
    assert read_audio(path, name="first_audio", max_seconds=600).seconds == 100


def test_too_many_boxes(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(struct.pack(">I4s", 8, b"free") * 200_000)
    with pytest.raises(InputError, match="100,001 boxes"):
        check(tmp_path / "a.mp4")


def test_large_files_of_other_formats_raise_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    with path.open("wb") as file:
        file.write(b"OggS stsz" + bytes(50))
        file.truncate(200 << 20)
    check(path)


def write_audio(path: Path, codec: str, form: str, samples_CN: np.ndarray) -> Path:
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for first in range(0, samples_CN.shape[1], 4096):
            frame = av.AudioFrame.from_ndarray(samples_CN[:, first : first + 4096], format="flt", layout="mono")
            frame.rate, frame.pts, frame.time_base = 48_000, first, Fraction(1, 48_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
