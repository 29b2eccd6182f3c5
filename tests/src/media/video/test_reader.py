"""Videos of every allowed kind are read at 25 frames per second by their timestamps."""

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
from src.media.container import MAX_STREAMS
from src.media.file_type import probe
from src.media.video.frame import DisplayTransform, to_image
from src.media.video.frame_reader import FrameReader
from src.media.video.reader import VideoReader
from src.media.video.scene_cuts import detect_scene_cuts
from src.media.video.stream import MAX_FRAME_RATE
from src.serving.cancellation import CancelledError, RequestContext, request_context
from tests.predict.media_files import RATE, encoded, tones
from tests.src.media.images.test_limits import jpeg_of_many_scans
from tests.src.media.video.video_files import HEIGHT, WIDTH, drawing, number_of, write_video

KINDS = [
    ("a.mp4", "libx264"),
    ("a.mov", "libx264"),
    ("a.mkv", "libx264"),
    ("a.mp4", "libx265"),
    ("a.webm", "libvpx-vp9"),
    ("a.webm", "libsvtav1"),
    ("a.mp4", "libsvtav1"),
    ("a.3gp", "libx264"),
    ("a.avi", "libx264"),
    ("a.avi", "mpeg4"),
    ("a.avi", "msmpeg4v3"),
    ("a.avi", "mjpeg"),
    ("a.ts", "libx264"),
    ("a.ts", "mpeg2video"),
    ("a.m2ts", "libx264"),
    ("a.mpg", "mpeg2video"),
    ("a.flv", "libx264"),
    ("a.flv", "flv"),
    ("a.wmv", "wmv1"),
    ("a.wmv", "wmv2"),
]
FORMATS = {"a.mpg": "mpeg", "a.wmv": "asf"}


def open_video(path: Path) -> FrameReader:
    """Decoded in this process, which is faster than `VideoReader`."""
    return FrameReader(probe(path, name="image"), max_seconds=600)


def write_kind(path: Path, codec: str, num_frames: int = 12) -> Path:
    """A video at the constant rate that some containers need, and at a bit rate that keeps the numbers legible."""
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return write_video(
        path,
        codec=codec,
        form=FORMATS.get(path.name),
        times=[Fraction(i, 25) for i in range(num_frames)],
        base=Fraction(1, 25),
        bit_rate=3_000_000,
        pix_fmt=pix_fmt,
    )


def numbers(video: VideoReader | FrameReader, count: int) -> list[int]:
    return [number_of(video.frame_at(index)) for index in range(count)]


def expected_numbers(times: list[Fraction], count: int) -> list[int]:
    """The number of the frame shown at each 1/25 second."""
    return [max(number for number, time in enumerate(times) if time <= Fraction(i, 25)) for i in range(count)]


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_containers_and_codecs(tmp_path: Path, name: str, codec: str) -> None:
    nameless = write_kind(tmp_path / name, codec).rename(tmp_path / "upload")
    video = VideoReader(probe(nameless, name="image"), max_seconds=600)
    assert video.size == (WIDTH, HEIGHT)
    assert numbers(video, 15) == [*range(12), 11, 11, 11]


@pytest.mark.parametrize("name", ["a.avi", "a.wmv", "a.flv", "a.mkv", "a.mp4"])
def test_truncated_video_is_refused(tmp_path: Path, name: str) -> None:
    path = write_kind(tmp_path / name, {"a.wmv": "wmv2", "a.flv": "flv"}.get(name, "libx264"), num_frames=75)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "damaged or cut off")


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_truncated_broadcast_is_read_to_its_end(tmp_path: Path, name: str) -> None:
    """Transport and program streams declare no length."""
    path = write_kind(tmp_path / name, "mpeg2video", num_frames=75)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert numbers(open_video(path), 20) == list(range(20))


def test_path_as_text(tmp_path: Path) -> None:
    assert numbers(VideoReader(str(write_video(tmp_path / "a.mp4"))), 3) == [0, 1, 2]


def test_video_process_ends_on_cancel_and_on_close(tmp_path: Path) -> None:
    video, context = VideoReader(write_video(tmp_path / "a.mp4")), RequestContext(request_id="r")
    context.cancelled.set()
    with request_context(context), pytest.raises(CancelledError):
        video.frame_at(3)
    assert numbers(video, 3) == [0, 1, 2]
    assert video.timestamp(5) == Fraction(5, 25)
    assert video.thumbnail(6, width=64, height=32).to_ndarray().shape == (32, 64, 3)
    video.close()
    video.close()


def test_jpeg_of_many_scans_in_a_video_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        packet = av.Packet(jpeg_of_many_scans(500))
        packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), 0, 0
        container.mux(packet)
    refused(tmp_path / "a.mkv", "more than 100 scans")


@pytest.mark.parametrize("rate", [12, 30000 / 1001, 60])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_constant_frame_rates(tmp_path: Path, name: str, rate: float) -> None:
    times = [Fraction(round(200 * i / rate), 200) for i in range(round(2 * rate))]
    video = open_video(write_video(tmp_path / name, times=times))
    assert numbers(video, 55) == expected_numbers(times, 55)


def test_variable_frame_rate(tmp_path: Path) -> None:
    times = [Fraction(ms, 1000) for ms in (0, 10, 120, 130, 500, 900)]
    video = open_video(write_video(tmp_path / "a.mp4", times=times))
    assert numbers(video, 30) == expected_numbers(times, 30)


def test_first_frame_is_at_time_zero(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "a.mkv", times=[2 + i / 25 for i in range(5)]))
    assert numbers(video, 5) == [0, 1, 2, 3, 4]


def test_random_access_and_reading_after_close(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "a.mp4"))
    assert [number_of(video.frame_at(index)) for index in (9, 9, 2, 3, 11, 0)] == [9, 9, 2, 3, 11, 0]
    video.close()
    assert number_of(video.frame_at(0)) == 0


@pytest.mark.parametrize(
    ("rotation", "transpose"),
    [
        ((90,), Image.Transpose.ROTATE_90),
        ((180,), Image.Transpose.ROTATE_180),
        ((270,), Image.Transpose.ROTATE_270),
        ((0, True), Image.Transpose.FLIP_LEFT_RIGHT),
        ((0, False, True), Image.Transpose.FLIP_TOP_BOTTOM),
    ],
)
def test_display_matrix_is_applied(tmp_path: Path, rotation: tuple[float, ...], transpose: Image.Transpose) -> None:
    image = open_video(write_video(tmp_path / "a.mp4", rotation=rotation)).frame_at(0)
    expected = drawing(0).transpose(transpose)
    assert image.size == expected.size
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 6


def test_sample_aspect_ratio_is_applied(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "a.mp4", pixel_ratio=Fraction(3, 2)))
    assert video.size == video.frame_at(3).size == (192, HEIGHT)


def test_scene_cuts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = [Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((160, 96)) for _ in range(3)]
    moving = [
        scene.transform(scene.size, Image.Transform.AFFINE, (0.9, 0, step / 4, 0, 0.9, step / 8))
        for scene, length in zip(scenes, (40, 30, 10), strict=True)
        for step in range(length)
    ]
    video = open_video(write_video(tmp_path / "a.mp4", times=[i / 25 for i in range(80)], images=moving))
    assert detect_scene_cuts(video, 80) == (40, 70)
    assert detect_scene_cuts(video, 70) == (40,)
    assert video.frame_at(0).size == (160, 96)


def test_scene_cut_between_equally_bright_scenes(tmp_path: Path) -> None:
    images = [Image.new("RGB", (64, 64), (180, 60, 60) if i < 30 else (96, 96, 96)) for i in range(40)]
    video = open_video(write_video(tmp_path / "a.mp4", times=[i / 25 for i in range(40)], images=images))
    assert detect_scene_cuts(video, 40) == (30,)


def test_scene_detection_can_be_cancelled(tmp_path: Path) -> None:
    class CancelledError(BaseException):
        """Like the exception that cancels a request."""

    asked = iter([False] * 5 + [True])

    def check() -> None:
        if next(asked):
            raise CancelledError

    video = open_video(write_video(tmp_path / "a.mp4"))
    with pytest.raises(CancelledError):
        detect_scene_cuts(video, 100, check)
    assert next(asked, None) is None


def test_fast_motion_at_a_low_frame_rate_is_not_a_cut(tmp_path: Path) -> None:
    """Eight frames per second, each of which is repeated three times."""
    rng = np.random.default_rng(0)
    blocks_HWC = rng.integers(0, 2, (3, 80, 1), np.uint8).repeat(3, axis=2) * 255
    wall = Image.fromarray(blocks_HWC).resize((2560, 192), Image.Resampling.BICUBIC)
    pan = [wall.crop((20 * step, 0, 20 * step + 256, 192)) for step in range(40)]
    video = open_video(write_video(tmp_path / "a.mp4", times=[i / 8 for i in range(40)], images=pan))
    assert detect_scene_cuts(video, 125) == ()


def test_flashes_are_at_most_one_cut_per_second(tmp_path: Path) -> None:
    images = [Image.new("L", (64, 64), 255 * (i % 5 == 4)).convert("RGB") for i in range(100)]
    video = open_video(write_video(tmp_path / "a.mp4", times=[i / 25 for i in range(100)], images=images))
    cuts = detect_scene_cuts(video, 100)
    assert cuts
    assert all(later - sooner >= 25 for sooner, later in pairwise((0, *cuts)))


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError, match="image") as caught:
        open_video(path)
    assert not [word for word in words if word not in str(caught.value)], caught.value


def test_too_high_frame_rate_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", codec="mjpeg", pix_fmt="yuvj420p", times=[i / 600 for i in range(600)])
    refused(path, f"more than {MAX_FRAME_RATE} frames per second")


@pytest.mark.parametrize(("size", "words"), [((16, 64), "at least 32"), ((1024, 48), "at most 16 times")])
def test_small_and_narrow_sizes_are_refused(tmp_path: Path, size: tuple[int, int], words: str) -> None:
    refused(write_video(tmp_path / "a.mp4", images=[drawing(0, size)], times=[0]), f"{size[0]} x {size[1]}", words)


def test_more_than_max_pixels_is_refused(tmp_path: Path) -> None:
    large = [Image.new("RGB", (4096, 2320))]
    path = write_video(tmp_path / "a.mkv", codec="mjpeg", pix_fmt="yuvj420p", images=large, times=[0])
    refused(path, "4096 x 2320 pixels", "at most 9,437,184")


def test_frames_of_changing_size(tmp_path: Path) -> None:
    """As browsers record calls; all frames are scaled to the first size."""
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
    video = open_video(tmp_path / "a.mkv")
    assert [video.frame_at(number).size for number in range(3)] == [(WIDTH, HEIGHT)] * 3
    assert numbers(video, 3) == [0, 1, 2]


def test_too_many_streams_are_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("mjpeg", rate=25) for _ in range(MAX_STREAMS + 1)]
        for stream in streams:
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for stream in streams:
            assert isinstance(stream, av.VideoStream)
            container.mux(stream.encode(av.VideoFrame.from_image(drawing(0))))
    refused(tmp_path / "a.mkv", f"has {MAX_STREAMS + 1} streams", f"at most {MAX_STREAMS} are allowed")


def test_mp4_without_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(encoded(tones(), RATE, "aac", "mp4"))
    refused(path, "has no video stream")


def test_frames_larger_than_the_header_declares_are_refused(tmp_path: Path) -> None:
    """The codec's frames are larger than the container's header declares."""
    path = write_video(tmp_path / "a.mkv", images=[Image.new("RGB", (8192, 8192))], times=[0])
    sides = b"\xb0\x82%b\xba\x82%b"
    large, small = (sides % (side.to_bytes(2, "big"), side.to_bytes(2, "big")) for side in (8192, 64))
    data = path.read_bytes()
    assert large in data
    path.write_bytes(data.replace(large, small))
    refused(path, "8192 x 8192 pixels", "at most 9,437,184")


def test_other_codecs_are_refused(tmp_path: Path) -> None:
    refused(write_video(tmp_path / "a.mkv", codec="ffv1"), "another codec", "H.264, HEVC, VP8, VP9, AV1")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_random_damage_raises_nothing_but_input_error(tmp_path: Path, name: str) -> None:
    """Random damage gives frames of the right size or an InputError."""
    data = write_video(tmp_path / name, times=[i / 25 for i in range(60)]).read_bytes()
    rng = np.random.default_rng(0)
    outcomes: set[bool | str] = set()
    for trial in range(30):
        broken = bytearray(data)
        if trial % 3:
            for position in rng.integers(12, len(data), 1 + trial):
                broken[position] = rng.integers(256)
        else:
            broken = broken[: rng.integers(12, len(data))]
        path = tmp_path / "broken"
        path.write_bytes(broken)
        try:
            video = open_video(path)
            outcomes.add(all(video.frame_at(index).size == video.size for index in range(0, 80, 8)))
        except InputError as error:
            outcomes.add(str(error)[:5])
    assert outcomes == {True, "image"}


@pytest.mark.parametrize(("curve", "white"), [(ColorTrc.ARIB_STD_B67, 0.75), (ColorTrc.SMPTE2084, 0.58)])
def test_hdr_is_converted_to_sdr(curve: ColorTrc, white: float) -> None:
    """Diffuse white (ITU-R BT.2408) becomes white; without a conversion it would be gray."""
    frame = av.VideoFrame(64, 64, "yuv420p10le")
    frame.planes[0].update(np.full((64, 64), 64 + 876 * white, np.uint16).tobytes())
    for plane in frame.planes[1:]:
        plane.update(np.full((32, 32), 512, np.uint16).tobytes())
    frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = 9, 9, curve, 1
    assert np.asarray(to_image(frame, DisplayTransform(width=64, height=64, rotation=None))).min() > 250
