"""Videos of every allowed kind, at 25 pictures a second by their own time stamps."""

import io
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorTrc
from PIL import Image

from src.errors import InputError
from src.media.video.frame import DisplayTransform, to_image
from src.media.video.reader import VideoReader
from src.media.video.scene_cuts import detect_scene_cuts
from src.media.video.stream import MAX_RATE, MAX_STREAMS, is_video
from tests.predict.media_files import RATE, encoded, tones
from tests.src.media.video.video_files import HEIGHT, WIDTH, drawing, number_of, write_film

KINDS = [
    ("a.mp4", "libx264"),
    ("a.mov", "libx264"),
    ("a.mkv", "libx264"),
    ("a.mp4", "libx265"),
    ("a.webm", "libvpx-vp9"),
    ("a.webm", "libsvtav1"),
    ("a.mp4", "libsvtav1"),
]


def numbers(film: VideoReader, count: int) -> list[int]:
    return [number_of(film.frame(index)) for index in range(count)]


def shown(times: list[Fraction], count: int) -> list[int]:
    """What is due at each twenty-fifth of a second."""
    return [max(number for number, time in enumerate(times) if time <= Fraction(i, 25)) for i in range(count)]


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_kinds_of_videos(tmp_path: Path, name: str, codec: str) -> None:
    path = write_film(tmp_path / name, codec=codec)
    nameless = path.rename(tmp_path / "upload")
    assert is_video(nameless)
    film = VideoReader(nameless, max_seconds=10)
    assert film.size == (WIDTH, HEIGHT)
    assert numbers(film, 15) == [*range(12), 11, 11, 11]


@pytest.mark.parametrize("rate", [12, 24, 30000 / 1001, 30, 50, 60])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_sources_own_rate_is_kept(tmp_path: Path, name: str, rate: float) -> None:
    times = [Fraction(round(200 * i / rate), 200) for i in range(round(2 * rate))]
    film = VideoReader(write_film(tmp_path / name, times=times), max_seconds=10)
    assert numbers(film, 55) == shown(times, 55)


def test_a_variable_rate(tmp_path: Path) -> None:
    times = [Fraction(ms, 1000) for ms in (0, 10, 120, 130, 500, 900)]
    film = VideoReader(write_film(tmp_path / "a.mp4", times=times), max_seconds=10)
    assert numbers(film, 30) == shown(times, 30)


def test_a_video_that_begins_late_begins_at_once(tmp_path: Path) -> None:
    film = VideoReader(write_film(tmp_path / "a.mkv", times=[2 + i / 25 for i in range(5)]), max_seconds=10)
    assert numbers(film, 5) == [0, 1, 2, 3, 4]


def test_going_back_and_leaping_ahead(tmp_path: Path) -> None:
    film = VideoReader(write_film(tmp_path / "a.mp4"), max_seconds=10)
    assert [number_of(film.frame(index)) for index in (9, 9, 2, 3, 11, 0)] == [9, 9, 2, 3, 11, 0]
    film.close()
    assert number_of(film.frame(0)) == 0


@pytest.mark.parametrize(
    ("rotation", "turn"),
    [
        ((90,), Image.Transpose.ROTATE_90),
        ((180,), Image.Transpose.ROTATE_180),
        ((270,), Image.Transpose.ROTATE_270),
        ((0, True), Image.Transpose.FLIP_LEFT_RIGHT),
        ((0, False, True), Image.Transpose.FLIP_TOP_BOTTOM),
    ],
)
def test_a_video_on_its_side_is_put_upright(tmp_path: Path, rotation: tuple[float, ...], turn: Image.Transpose) -> None:
    found = VideoReader(write_film(tmp_path / "a.mp4", rotation=rotation), max_seconds=10).frame(0)
    wanted = drawing(0).transpose(turn)
    assert found.size == wanted.size
    assert np.abs(np.asarray(found, int) - np.asarray(wanted, int)).mean() < 6


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    film = VideoReader(write_film(tmp_path / "a.mp4", pixel_ratio=Fraction(3, 2)), max_seconds=10)
    assert film.size == film.frame(3).size == (192, HEIGHT)


def test_another_scene(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = [Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((160, 96)) for _ in range(3)]
    moving = [
        scene.transform(scene.size, Image.Transform.AFFINE, (0.9, 0, step / 4, 0, 0.9, step / 8))
        for scene, length in zip(scenes, (40, 30, 10), strict=True)
        for step in range(length)
    ]
    film = VideoReader(
        write_film(tmp_path / "a.mp4", times=[i / 25 for i in range(80)], pictures=moving), max_seconds=10
    )
    assert detect_scene_cuts(film, 80) == (40, 70)
    assert detect_scene_cuts(film, 70) == (40,)
    assert film.frame(0).size == (160, 96)


def test_another_scene_as_bright_as_the_one_before(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (64, 64), (180, 60, 60) if i < 30 else (96, 96, 96)) for i in range(40)]
    film = VideoReader(
        write_film(tmp_path / "a.mp4", times=[i / 25 for i in range(40)], pictures=pictures), max_seconds=10
    )
    assert detect_scene_cuts(film, 40) == (30,)


def test_looking_for_scenes_can_be_given_up(tmp_path: Path) -> None:
    class GivenUpError(BaseException):
        """As a request is stopped: no Exception."""

    asked = iter([False] * 5 + [True])

    def check() -> None:
        if next(asked):
            raise GivenUpError

    film = VideoReader(write_film(tmp_path / "a.mp4"), max_seconds=10)
    with pytest.raises(GivenUpError):
        detect_scene_cuts(film, 100, check)
    assert next(asked, None) is None


def test_fast_motion_at_a_low_rate_is_not_another_scene(tmp_path: Path) -> None:
    """Eight pictures a second, each of which stays for three frames."""
    rng = np.random.default_rng(0)
    blocks_HWC = rng.integers(0, 2, (3, 80, 1), np.uint8).repeat(3, axis=2) * 255
    wall = Image.fromarray(blocks_HWC).resize((2560, 192), Image.Resampling.BICUBIC)
    pan = [wall.crop((20 * step, 0, 20 * step + 256, 192)) for step in range(40)]
    film = VideoReader(write_film(tmp_path / "a.mp4", times=[i / 8 for i in range(40)], pictures=pan), max_seconds=10)
    assert detect_scene_cuts(film, 125) == ()


def test_lightning_is_not_many_scenes(tmp_path: Path) -> None:
    pictures = [Image.new("L", (64, 64), 255 * (i % 5 == 4)).convert("RGB") for i in range(100)]
    film = VideoReader(
        write_film(tmp_path / "a.mp4", times=[i / 25 for i in range(100)], pictures=pictures), max_seconds=10
    )
    cuts = detect_scene_cuts(film, 100)
    assert cuts
    assert all(later - sooner >= 25 for sooner, later in pairwise((0, *cuts)))


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError, match="image") as caught:
        VideoReader(path, max_seconds=600)
    assert not [word for word in words if word not in str(caught.value)], caught.value


def test_too_many_pictures_a_second(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mkv", codec="mjpeg", pix_fmt="yuvj420p", times=[i / 600 for i in range(600)])
    refused(path, f"more than {MAX_RATE} frames a second")


@pytest.mark.parametrize(("size", "words"), [((16, 64), "at least 32"), ((1024, 48), "at most 16 times")])
def test_sizes_that_are_not_allowed(tmp_path: Path, size: tuple[int, int], words: str) -> None:
    refused(write_film(tmp_path / "a.mp4", pictures=[drawing(0, size)], times=[0]), f"{size[0]} x {size[1]}", words)


def test_more_pixels_than_allowed(tmp_path: Path) -> None:
    large = [Image.new("RGB", (4096, 2320))]
    path = write_film(tmp_path / "a.mkv", codec="mjpeg", pix_fmt="yuvj420p", pictures=large, times=[0])
    refused(path, "4096 x 2320 pixels", "at most 9,437,184")


def test_pictures_that_change_their_size(tmp_path: Path) -> None:
    """As browsers record calls; the first size is kept."""
    sizes = [(WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2), (2 * WIDTH, 2 * HEIGHT)]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for number, size in enumerate(sizes):
            file = io.BytesIO()
            drawing(number, size).save(file, "JPEG", quality=95)
            packet = av.Packet(file.getvalue())
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            container.mux(packet)
    film = VideoReader(tmp_path / "a.mkv", max_seconds=10)
    assert [film.frame(number).size for number in range(3)] == [(WIDTH, HEIGHT)] * 3
    assert numbers(film, 3) == [0, 1, 2]


def test_too_many_tracks(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("mjpeg", rate=25) for _ in range(MAX_STREAMS + 1)]
        for stream in streams:
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for stream in streams:
            assert isinstance(stream, av.VideoStream)
            container.mux(stream.encode(av.VideoFrame.from_image(drawing(0))))
    refused(tmp_path / "a.mkv", f"has {MAX_STREAMS + 1} tracks", f"at most {MAX_STREAMS} are allowed")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(encoded(tones(), RATE, "aac", "mp4"))
    refused(path, "has no video track")


def test_far_more_pixels_than_the_header_says(tmp_path: Path) -> None:
    """The pictures themselves are as large as a header of 64 x 64 hides."""
    path = write_film(tmp_path / "a.mkv", pictures=[Image.new("RGB", (8192, 8192))], times=[0])
    sides = b"\xb0\x82%b\xba\x82%b"
    large, small = (sides % (side.to_bytes(2, "big"), side.to_bytes(2, "big")) for side in (8192, 64))
    data = path.read_bytes()
    assert large in data
    path.write_bytes(data.replace(large, small))
    refused(path, "8192 x 8192 pixels", "at most 9,437,184")


def test_another_encoding(tmp_path: Path) -> None:
    refused(write_film(tmp_path / "a.mkv", codec="ffv1"), "another encoding", "H.264, HEVC, VP8, VP9, AV1")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_damage_never_breaks_it(tmp_path: Path, name: str) -> None:
    """Whatever the bytes: pictures of the right size, or a sentence."""
    data = write_film(tmp_path / name, times=[i / 25 for i in range(60)]).read_bytes()
    rng = np.random.default_rng(0)
    outcomes: set[bool | str] = set()
    for trial in range(60):
        broken = bytearray(data)
        if trial % 3:
            for place in rng.integers(12, len(data), 1 + trial):
                broken[place] = rng.integers(256)
        else:
            broken = broken[: rng.integers(12, len(data))]
        path = tmp_path / "broken"
        path.write_bytes(broken)
        try:
            film = VideoReader(path, max_seconds=600)
            outcomes.add(all(film.frame(index).size == film.size for index in range(0, 80, 8)))
        except InputError as error:
            outcomes.add(str(error)[:5])
    assert outcomes == {True, "image"}


@pytest.mark.parametrize(("curve", "white"), [(ColorTrc.ARIB_STD_B67, 0.75), (ColorTrc.SMPTE2084, 0.58)])
def test_high_dynamic_range_becomes_ordinary(curve: ColorTrc, white: float) -> None:
    """The signal of a white sheet of paper (ITU-R BT.2408) is white; without a conversion it would be grey."""
    frame = av.VideoFrame(64, 64, "yuv420p10le")
    frame.planes[0].update(np.full((64, 64), 64 + 876 * white, np.uint16).tobytes())
    for plane in frame.planes[1:]:
        plane.update(np.full((32, 32), 512, np.uint16).tobytes())
    frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = 9, 9, curve, 1
    assert np.asarray(to_image(frame, DisplayTransform(width=64, height=64, turn=None))).min() > 250
