"""A video as the source, through the server with a model that can be shown one."""

import pytest
from PIL import Image

from tests.predict.cases import TEXT
from tests.predict.conftest import Service, good
from tests.predict.media_files import half, recorded, tones, uri, voice
from tests.predict.output_video import OutputVideo, decode_frames, decode_output
from tests.predict.test_examples import LINES, VIDEO, run
from tests.src.media.video.video_files import write_video

COLORS = ((40, 60, 160), (60, 150, 60))


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A blue scene and a green one, 30 frames a second."""
    pictures = [Image.new("RGB", (128, 64), COLORS[number >= 31]) for number in range(50)]
    path = tmp_path_factory.mktemp("films") / "video_file.webm"
    times = [number / 30 for number in range(len(pictures))]
    return write_video(path, codec="libvpx-vp9", times=times, images=pictures).read_bytes()


def test_scene_cut_stays_at_its_frame(infinitetalk_service: Service, video_file: bytes) -> None:
    """Picture 31 at 30 a second is due at 1.033 s: frame 26 is the first that shows it."""
    sound = uri(recorded(tones(1.32)))
    answer = infinitetalk_service.succeed(image=uri(video_file), first_audio=sound, num_frames=None, detect_cuts=True)
    video = decode_output(answer)
    assert video.frames == 33
    assert is_first_scene(video) == [True] * 26 + [False] * 7
    assert answer["logs"].count("decode: chunk") == 2
    unaware = infinitetalk_service.succeed(image=uri(video_file), first_audio=sound, num_frames=None)
    assert unaware["logs"].count("decode: chunk") == 1
    assert is_first_scene(decode_output(unaware)) != is_first_scene(video)


def is_first_scene(video: OutputVideo) -> list[bool]:
    """Which frames are of the first scene."""
    means_FC = video.frames_FHWC.mean((1, 2))
    return (means_FC[:, 2] > means_FC[:, 1]).tolist()


def test_image_instead_of_a_video(infinitetalk_service: Service) -> None:
    assert infinitetalk_service.succeed(detect_cuts=True)["metrics"]["frames"] == 1


def test_one_file_as_image_and_audio(infinitetalk_service: Service) -> None:
    both = uri(voice("video"))
    assert decode_output(infinitetalk_service.succeed(image=both, first_audio=both, num_frames=None)).frames == 10


def test_preview_shows_the_first_frame(infinitetalk_service: Service, video_file: bytes) -> None:
    frames_FHWC = decode_frames(infinitetalk_service.succeed(image=uri(video_file), preview_speakers=True))
    assert len(frames_FHWC) == 25
    inside = frames_FHWC[0, -60:, 60:-60].mean((0, 1))
    assert inside[2] > inside[1]  # is_first_scene, under the tint of the only person


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (half(voice("video")), "damaged or cut off"),
        (b"\x1aE\xdf\xa3" + bytes(200), "an MP4, MOV, WebM, MKV, AVI, WMV, FLV or MPEG video is needed"),
        (voice("M4A"), "looks like M4A audio"),
        (TEXT, "image, or an MP4, MOV, WebM, MKV, AVI, WMV, FLV or MPEG video, is needed"),
    ],
)
def test_invalid_videos(infinitetalk_service: Service, data: bytes, words: str) -> None:
    answer = infinitetalk_service.server.predict(good() | {"image": uri(data)})
    assert answer["status"] == "failed"
    assert "image" in answer["error"]
    assert words in answer["error"]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith(VIDEO)])
@pytest.mark.usefixtures("short_examples")
def test_example_with_a_video(infinitetalk_service: Service, line: str) -> None:
    run(infinitetalk_service, line)
