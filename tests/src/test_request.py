"""Reading and validating the media of a request."""

import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from src.errors import InputError
from src.media.file_type import probe
from src.media.video.frame_reader import FrameReader
from src.media.video.writer import VideoWriter
from src.request import MediaLimits, RawInputs, load_inputs, read_source
from src.serving.request_warnings import collect_warnings
from tests.src.media.video.video_files import HEIGHT, WIDTH, drawing, number_of, write_video

LIMITS = MediaLimits(max_seconds=60.0)


def voice(path: Path, seconds: float, rate: int = 8000, channels: int = 1) -> Path:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (round(seconds * rate), channels)).astype(np.float32)
    soundfile.write(path, noise, rate, format="FLAC")
    return path


@pytest.fixture
def raw(tmp_path: Path) -> RawInputs:
    Image.new("RGB", (256, 128), "red").save(tmp_path / "image.png")
    return RawInputs(
        image=tmp_path / "image.png",
        first_audio=voice(tmp_path / "first.flac", 4.6),
        second_audio=None,
        num_frames=None,
        person_boxes=None,
        audio_mode="add",
        audio_start=0.0,
        audio_duration=None,
    )


def test_longest_allowed_audio(raw: RawInputs) -> None:
    media = load_inputs(raw, MediaLimits(max_seconds=4.6))
    assert media.num_frames == 115
    assert media.timeline.soundtrack.seconds == pytest.approx(4.6)


def test_two_voices_may_be_too_long_together(raw: RawInputs) -> None:
    both = replace(raw, second_audio=raw.first_audio)
    with pytest.raises(InputError, match=r"first_audio \(4\.60 s\) and second.*9\.20 s; at most 125 frames \(5 s"):
        load_inputs(both, MediaLimits(max_seconds=5.0))
    assert load_inputs(replace(both, audio_mode="para"), MediaLimits(max_seconds=5.0)).num_frames == 115


def test_silent_second_person_needs_no_file(raw: RawInputs) -> None:
    media = load_inputs(replace(raw, person_boxes="0,0,0.4,1; 0.6,0,1,1"), LIMITS)
    assert media.person_masks is not None
    first_N, second_N = media.timeline.waveforms
    assert len(first_N) == len(second_N)
    assert first_N.any()
    assert not second_N.any()


@pytest.mark.parametrize("num_frames", [1, 7, 115, 200])
def test_soundtrack_has_the_requested_length(raw: RawInputs, num_frames: int) -> None:
    media = load_inputs(replace(raw, num_frames=num_frames), LIMITS)
    assert media.num_frames == num_frames
    assert media.timeline.soundtrack.seconds == pytest.approx(num_frames / 25)
    assert all(len(waveform_N) >= num_frames * 640 for waveform_N in media.timeline.waveforms)


def test_too_long_audio_is_refused_quickly(raw: RawInputs, tmp_path: Path) -> None:
    long = voice(tmp_path / "long.flac", 400, rate=44_100, channels=2)
    both = replace(raw, first_audio=long, second_audio=long)
    started = time.process_time()
    with pytest.raises(InputError, match=r"800\.00 s; at most 15,000 frames"):
        load_inputs(both, MediaLimits(max_seconds=600.0))
    # The promise is 2 s on an idle machine; processor time does not depend on other processes.
    assert time.process_time() - started < 2.5


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was opened, by name, and FFmpeg ("ffmpeg")."""
    counts: Counter[str] = Counter()
    path_open, av_open = Path.open, av.open

    def count_path(self: Path, *args: Any, **options: Any) -> Any:
        counts[self.name] += 1
        return path_open(self, *args, **options)

    def count_av(*args: Any, **options: Any) -> Any:
        counts["ffmpeg"] += 1
        return av_open(*args, **options)

    monkeypatch.setattr(Path, "open", count_path)
    monkeypatch.setattr(av, "open", count_av)
    return counts


@pytest.mark.parametrize("form", ["GIF", "PNG", "AVIF"])
@pytest.mark.parametrize("allowed", [True, False])
def test_animated_image_is_a_video_where_videos_are_allowed(
    tmp_path: Path, raw: RawInputs, form: str, allowed: bool
) -> None:
    first, *later = (drawing(number) for number in range(5))
    options = {"loop": 0} if form == "GIF" else {}
    first.save(tmp_path / "upload", form, save_all=True, append_images=later, duration=40, **options)
    limits = replace(LIMITS, video_unsupported="" if allowed else "no video")
    with collect_warnings() as messages:
        image, video = read_source(replace(raw, image=tmp_path / "upload"), limits)
    assert image.size == (WIDTH, HEIGHT)
    if allowed:
        assert video is not None
        assert [number_of(video.frame_at(index)) for index in range(6)] == [0, 1, 2, 3, 4, 4]
        assert messages == []
    else:
        assert video is None
        assert messages == ["image is animated; its first frame is used"]


@pytest.mark.parametrize("name", ["source.mp4", "source.mkv"])
def test_video_is_opened_once(tmp_path: Path, name: str, opened: Counter[str]) -> None:
    """FFmpeg opens the same file object twice: to scan the packets, and to decode."""
    file = probe(write_video(tmp_path / name), name="image")
    opened.clear()
    video = FrameReader(file, max_seconds=60)
    assert [video.frame_at(index).size for index in (0, 5, 11)] == [(128, 64)] * 3
    assert (opened[name], opened["ffmpeg"]) == (1, 2)
    video.close()


@pytest.mark.parametrize(
    ("second", "mode", "num_frames", "num_arrays"),
    [
        (None, "add", None, 3),  # read, to 16 kHz mono, to -23 LUFS
        (None, "add", 200, 4),  # and the soundtrack padded
        ((8000, 1), "para", 100, 7),  # two of these three, and the mix
        ((44_100, 2), "add", 200, 8),  # and the first voice in the format of the second
    ],
)
def test_audio_is_copied_once_per_step(
    raw: RawInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    second: tuple[int, int] | None,
    mode: str,
    num_frames: int | None,
    num_arrays: int,
) -> None:
    """Arrays made from reading the voices to encoding the soundtrack."""
    files: list[Any] = []
    make = tempfile.SpooledTemporaryFile
    second_audio = None if second is None else voice(tmp_path / "second.flac", 3.1, *second)

    def count(*args: Any, **options: Any) -> Any:
        files.append(make(*args, **options))
        return files[-1]

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", count)
    media = load_inputs(replace(raw, second_audio=second_audio, audio_mode=mode, num_frames=num_frames), LIMITS)
    VideoWriter(
        tmp_path / "a.mp4", width=64, height=64, num_frames=media.num_frames, soundtrack=media.timeline.soundtrack
    )
    assert len(files) == num_arrays
