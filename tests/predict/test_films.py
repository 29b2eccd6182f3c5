"""A video as the source, through the server with a model that can be shown one."""

import pytest
from PIL import Image

from tests.predict.cases import TEXT
from tests.predict.conftest import Service, good
from tests.predict.movies import Movie, frames_of, movie_of
from tests.predict.uploads import half, recorded, silent_film, tones, uri, voice
from tests.src.media.video.video_files import write_film

COLORS = ((40, 60, 160), (60, 150, 60))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A blue scene and a green one, 30 pictures a second."""
    pictures = [Image.new("RGB", (128, 64), COLORS[number >= 31]) for number in range(50)]
    path = tmp_path_factory.mktemp("films") / "film.webm"
    times = [number / 30 for number in range(len(pictures))]
    return write_film(path, codec="libvpx-vp9", times=times, pictures=pictures).read_bytes()


def test_a_cut_is_where_it_was(film_service: Service, film: bytes) -> None:
    """Picture 31 at 30 a second is due at 1.033 s: frame 26 is the first that shows it."""
    sound = uri(recorded(tones(1.32)))
    answer = film_service.succeed(image=uri(film), first_audio=sound, num_frames=None, detect_cuts=True)
    movie = movie_of(answer)
    assert movie.frames == 33
    assert blue(movie) == [True] * 26 + [False] * 7
    assert answer["logs"].count("decode: chunk") == 2
    unaware = film_service.succeed(image=uri(film), first_audio=sound, num_frames=None)
    assert unaware["logs"].count("decode: chunk") == 1
    assert blue(movie_of(unaware)) != blue(movie)


def blue(movie: Movie) -> list[bool]:
    """Which frames are of the first scene."""
    means_FC = movie.frames_FHWC.mean((1, 2))
    return (means_FC[:, 2] > means_FC[:, 1]).tolist()


def test_a_picture_is_still_welcome(film_service: Service) -> None:
    assert film_service.succeed(detect_cuts=True)["metrics"]["frames"] == 1


def test_the_same_file_may_be_what_is_seen_and_heard(film_service: Service) -> None:
    both = uri(voice("video"))
    assert movie_of(film_service.succeed(image=both, first_audio=both, num_frames=None)).frames == 10


def test_the_preview_is_of_the_first_picture(film_service: Service, film: bytes) -> None:
    frames_FHWC = frames_of(film_service.succeed(image=uri(film), preview_speakers=True))
    assert len(frames_FHWC) == 25
    inside = frames_FHWC[0, -60:, 60:-60].mean((0, 1))
    assert inside[2] > inside[1]  # blue, under the tint of the only person


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (half(silent_film()), "damaged or cut off"),
        (half(voice("video")), "damaged or cut off"),
        (silent_film()[:40], "an MP4, MOV, WebM or MKV video is needed"),
        (b"\x1aE\xdf\xa3" + bytes(200), "an MP4, MOV, WebM or MKV video is needed"),
        (bytes(4) + b"ftypisom" + bytes(500), "an MP4, MOV, WebM or MKV video is needed"),
        (voice("M4A"), "looks like M4A sound"),
        (TEXT, "picture, or an MP4, MOV, WebM or MKV video, is needed"),
    ],
)
def test_no_video(film_service: Service, data: bytes, words: str) -> None:
    answer = film_service.server.predict(good() | {"image": uri(data)})
    assert answer["status"] == "failed"
    assert "image" in answer["error"]
    assert words in answer["error"]
    assert answer["logs"] == ""
