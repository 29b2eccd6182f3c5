"""Good requests through the real server: what comes back is the video that was asked for."""

import io
import itertools
import math
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.predict.conftest import MODEL, Service
from tests.predict.movies import Movie, likeness, loudness, movie_of
from tests.predict.uploads import blank, plain, recorded, saved, tones, two_people, uri, voice
from wan.configs import WAN_CONFIGS

BOXES = "0.05,0.1,0.2,0.6;0.6,0.1,0.95,1"
PIXEL_BOXES = "13,13,51,77;154,13,243,128"
SMALL_480 = (128, 64)
SMALL_720 = (192, 96)
FEW_MS = 0.005
AAC_PACKET = 1024
LOW, HIGH = tones(0.4, pitch=300), tones(0.6, pitch=2000)
ANNA, BEN = uri(recorded(LOW)), uri(recorded(HIGH))
PEOPLE = two_people()


@pytest.fixture(scope="module")
def plain_movie(service: Service) -> Movie:
    """What the good request gives."""
    return movie_of(service.succeed())


def asked(service: Service, **inputs: Any) -> Movie:
    return movie_of(service.succeed(**inputs))


@pytest.mark.parametrize("frames", [1, 2, 5, 33, 34])
def test_exactly_as_many_frames_as_asked(service: Service, frames: int) -> None:
    sound = uri(recorded(tones(2.0)))
    answer = service.succeed(num_frames=frames, first_audio=sound)
    movie = movie_of(answer)
    assert movie.frames == frames == answer["metrics"]["frames"]
    assert movie.video_seconds == pytest.approx(frames / 25)
    assert movie.sound_seconds == pytest.approx(frames / 25, abs=FEW_MS)
    if frames > 1:
        assert np.diff(movie.frames_FHWC.astype(int), axis=0).any()


@pytest.mark.parametrize("seconds", [0.04, 0.29, 0.31])
def test_as_long_as_the_sound_by_default(service: Service, seconds: float) -> None:
    answer = service.succeed(first_audio=uri(voice("WAV", seconds)), num_frames=None)
    assert movie_of(answer).frames == round(25 * seconds) == answer["metrics"]["frames"]


def test_longer_than_the_sound_is_silent_at_the_end(service: Service) -> None:
    movie = asked(service, num_frames=20)
    assert movie.frames == 20
    assert movie.sound_seconds == pytest.approx(0.8, abs=FEW_MS)
    assert loudness(movie.sound[round(0.5 * movie.rate) :]) < 0.01 < loudness(movie.sound[: round(0.3 * movie.rate)])


def test_two_voices_in_turn(service: Service) -> None:
    movie = asked(service, first_audio=ANNA, second_audio=BEN, num_frames=None, audio_mode="add")
    assert movie.frames == 25
    assert likeness(movie.sound, np.concatenate([LOW, HIGH])[:, 0]) > 0.98


def test_two_voices_together(service: Service) -> None:
    movie = asked(service, first_audio=ANNA, second_audio=BEN, num_frames=None, audio_mode="para")
    assert movie.frames == 15
    mixed_N = HIGH[:, 0].copy()
    mixed_N[: len(LOW)] += LOW[:, 0]
    assert likeness(movie.sound, mixed_N) > 0.98


def test_what_two_people_say_and_where_they_are_is_seen(service: Service, plain_movie: Movie) -> None:
    two = asked(service, second_audio=ANNA, first_audio=BEN)
    swapped = asked(service, second_audio=BEN, first_audio=ANNA)
    boxed = asked(service, second_audio=ANNA, first_audio=BEN, person_boxes=BOXES)
    pixels = asked(service, second_audio=ANNA, first_audio=BEN, person_boxes=PIXEL_BOXES)
    assert different(two, plain_movie)
    assert different(two, swapped)
    assert different(two, boxed)
    assert not different(boxed, pixels)


def test_one_voice_with_two_boxes_has_a_silent_listener(service: Service, plain_movie: Movie) -> None:
    listening = asked(service, person_boxes=BOXES)
    silence = uri(recorded(np.zeros_like(tones())))
    assert different(listening, plain_movie)
    assert not different(listening, asked(service, person_boxes=BOXES, second_audio=silence, audio_mode="para"))
    assert asked(service, person_boxes=BOXES, num_frames=None).frames == 10


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (48_000, 1), (16_000, 2), (8_000, 1)])
def test_the_file(service: Service, rate: int, channels: int) -> None:
    given_NC = tones(0.4, rate, channels)
    movie = asked(service, first_audio=uri(recorded(given_NC, rate)), num_frames=None)
    assert (movie.codec, movie.pixels, movie.fps, movie.size) == ("h264", "yuv420p", 25.0, SMALL_480)
    assert 0 < movie.data.index(b"moov") < movie.data.index(b"mdat")
    assert (movie.sound_codec, movie.rate, len(movie.samples_CN)) == ("aac", rate, channels)
    assert movie.frames == 10
    assert movie.sound_seconds == pytest.approx(movie.video_seconds, abs=FEW_MS)
    for found_N, given_N in zip(movie.samples_CN, given_NC.T, strict=True):
        assert likeness(found_N, given_N) > 0.98


def test_two_voices_of_two_formats_get_the_better_of_each(service: Service) -> None:
    stereo = uri(recorded(tones(0.2, 22_050, 2), 22_050))
    movie = asked(service, first_audio=stereo, second_audio=uri(recorded(tones(0.2, 48_000), 48_000)), num_frames=None)
    assert (movie.rate, len(movie.samples_CN), movie.frames) == (48_000, 2, 10)


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3", "M4A", "video"])
def test_sound_of_other_files(service: Service, form: str, plain_movie: Movie) -> None:
    movie = asked(service, first_audio=uri(voice(form)), num_frames=8)
    assert movie.frames == 8
    assert likeness(movie.sound, tones()[:, 0]) > 0.95


def test_a_part_of_the_sound(service: Service) -> None:
    long_NC = tones(2.0)
    movie = asked(service, first_audio=uri(recorded(long_NC)), audio_start=1.2, audio_duration=0.4, num_frames=None)
    part_NC = long_NC[round(1.2 * 16_000) : round(1.6 * 16_000)]
    assert movie.frames == 10
    assert likeness(movie.sound, part_NC[:, 0]) > 0.98
    assert not different(movie, asked(service, first_audio=uri(recorded(part_NC)), num_frames=None))
    rest = asked(service, first_audio=uri(recorded(long_NC)), audio_start=1.8, audio_duration=9, num_frames=None)
    assert rest.frames == 5


def test_the_seed_decides(service: Service, plain_movie: Movie) -> None:
    assert asked(service).data == plain_movie.data
    assert different(asked(service, seed=2), plain_movie)
    assert not different(asked(service, seed=1.0), plain_movie)


def test_a_drawn_seed_is_reported_and_repeats_the_video(service: Service) -> None:
    answers = [service.succeed(seed=None) for _ in range(2)]
    seeds = [answer["metrics"]["seed"] for answer in answers]
    assert seeds[0] != seeds[1]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert f"seed {seeds[0]}" in answers[0]["logs"]
    assert asked(service, seed=seeds[0]).data == movie_of(answers[0]).data


def test_metrics(service: Service) -> None:
    metrics = service.succeed(num_frames=5, seed=77)["metrics"]
    assert (metrics["model"], metrics["seed"], metrics["frames"]) == (MODEL, 77, 5)
    assert (metrics["width"], metrics["height"]) == SMALL_480
    assert metrics["kernels"] == "plain"
    assert metrics["attention"]["self"] == "torch"
    seconds = metrics["seconds"]
    assert seconds.keys() == {"total", "speech", "prepare", "condition", "denoise", "decode", "encode", "finish"}
    assert sum(seconds.values()) - seconds["total"] == pytest.approx(seconds["total"], rel=0.2)
    assert metrics["seconds_per_step"] == pytest.approx(seconds["denoise"] / 2)
    assert all(math.isfinite(value) and value > 0 for value in seconds.values())


def test_progress_is_told_while_it_runs(service: Service) -> None:
    begin = len(service.lines)
    answer = service.succeed(num_frames=50, seed=5)
    expected = ["seed 5, 50 frames", "speech", "prepare: chunk 1 of 2"]
    for chunk in (1, 2):
        of_chunk = f"chunk {chunk} of 2"
        expected += [f"condition: {of_chunk}"]
        expected += [f"denoise: {of_chunk}, step {step} of 2" for step in (1, 2)]
        expected += [f"decode: {of_chunk}", "encode"]
    expected += ["finish"]
    assert answer["logs"].splitlines() == expected
    assert movie_of(answer).frames == 50
    assert [line for _, line in service.lines[begin:]] == expected
    times = [when for when, _ in service.lines[begin:]]
    assert times[-1] - times[0] > 0.5 * answer["metrics"]["seconds"]["total"]


PICTURES = {
    "RGBA": PEOPLE.convert("RGBA"),
    "palette": PEOPLE.quantize(255),
    "grey": PEOPLE.convert("L"),
    "grey with alpha": PEOPLE.convert("LA"),
    "black and white": PEOPLE.convert("1"),
    "16 bit": Image.fromarray(np.asarray(PEOPLE.convert("L")).astype(np.uint16) * 257),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_kinds_of_pictures(service: Service, plain_movie: Movie, kind: str) -> None:
    movie = asked(service, image=uri(saved(PICTURES[kind])))
    assert movie.size == SMALL_480
    if kind == "RGBA":
        assert not different(movie, plain_movie)
    if kind == "16 bit":
        assert not different(movie, asked(service, image=uri(saved(PICTURES["grey"]))))


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_formats_of_pictures(service: Service, plain_movie: Movie, form: str) -> None:
    movie = asked(service, image=uri(plain(form)))
    assert movie.size == SMALL_480
    if form in {"BMP", "TIFF", "JPEG2000", "PPM"}:
        assert not different(movie, plain_movie)


def test_cmyk(service: Service) -> None:
    assert asked(service, image=uri(saved(PEOPLE.convert("CMYK"), "JPEG"))).size == SMALL_480


def test_a_picture_on_its_side_is_put_upright(service: Service, plain_movie: Movie) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = PEOPLE.transpose(Image.Transpose.ROTATE_90)
    assert lying.size == (128, 256)
    assert not different(asked(service, image=uri(saved(lying, exif=exif))), plain_movie)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((101, 203), (64, 128)), ((333, 333), (96, 96)), ((32, 32), (96, 96)), ((512, 32), SMALL_480)],
)
def test_sizes_of_pictures(service: Service, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert asked(service, image=uri(plain(size=size)), second_audio=BEN).size == expected


def test_the_larger_size_class(service: Service) -> None:
    answer = service.succeed(resolution="720p")
    assert movie_of(answer).size == SMALL_720
    assert (answer["metrics"]["width"], answer["metrics"]["height"]) == SMALL_720


def test_numbers_of_the_other_kind(service: Service, plain_movie: Movie) -> None:
    inputs = {"num_frames": 1.0, "sampling_steps": 2.0, "seed": 1.0, "text_guidance": 2, "shift": 3, "audio_start": 0}
    assert not different(asked(service, **inputs), plain_movie)


CHANGES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "a storm at sea"},
    "text_guidance": {"text_guidance": 8.5},
    "audio_guidance": {"audio_guidance": 8},
    "shift": {"shift": 1.5},
    "color_correction": {"color_correction": 1},
    "no color_correction": {"color_correction": 0},
    "no turbo": {"turbo": False},
    "use_apg": {"use_apg": True},
    "negative_prompt": {"negative_prompt": "rain"},
    "sampling_steps": {"sampling_steps": 3},
    "guidance_reuse": {"guidance_reuse": True},
    "first_audio": {"first_audio": BEN},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_is_seen(service: Service, plain_movie: Movie, name: str) -> None:
    assert different(asked(service, **CHANGES[name]), plain_movie)


@pytest.mark.parametrize(
    "inputs",
    [
        {"text_guidance": 2, "audio_guidance": 2.0, "shift": 3},
        {"negative_prompt": ""},
        {"negative_prompt": WAN_CONFIGS[MODEL].negative_prompt},
        {"person_boxes": " "},
        {"color_correction": 0.3},
        {"unknown": "is dropped by the server"},
    ],
)
def test_defaults(service: Service, plain_movie: Movie, inputs: dict[str, Any]) -> None:
    assert not different(asked(service, **inputs), plain_movie)


def test_explicit_values_win_over_turbo(service: Service) -> None:
    turbo = {"text_guidance": 2, "audio_guidance": 2, "shift": 3}
    quality = {"text_guidance": 3, "audio_guidance": 2, "shift": 3}
    slow = asked(service, turbo=False)
    assert not different(asked(service, turbo=False, **quality), slow)
    assert different(asked(service, turbo=False, **turbo), slow)


def test_each_cache_leaves_out_other_steps(service: Service) -> None:
    movies = [asked(service, cache=cache, sampling_steps=12) for cache in ("none", "teacache", "magcache")]
    assert all(different(one, other) for one, other in itertools.combinations(movies, 2))


def test_a_long_prompt_is_cut_and_the_log_says_so(service: Service) -> None:
    long = "x" * 5_000
    answer = service.succeed(prompt=long)
    assert "has 5001 tokens; the first 128 are used" in answer["logs"]
    assert not different(movie_of(answer), asked(service, prompt=long[:4_000]))
    assert "tokens" not in service.succeed(prompt="x" * 100)["logs"]


def test_words_in_any_script(service: Service, plain_movie: Movie) -> None:
    assert different(asked(service, prompt="两个人在海边说话 🎥\u0000 éß"), plain_movie)


def test_a_large_picture(service: Service) -> None:
    assert asked(service, image=uri(blank(4_000, 2_000)), second_audio=BEN, person_boxes=BOXES).size == SMALL_480


def different(one: Movie, other: Movie) -> bool:
    """Whether any pixel of the frames that both have differs."""
    length = min(one.frames, other.frames)
    return not np.array_equal(one.frames_FHWC[:length], other.frames_FHWC[:length])


def test_the_file_says_that_it_is_synthetic(service: Service) -> None:
    with av.open(io.BytesIO(asked(service, seed=77).data)) as container:
        comment = dict(pair.split("=") for pair in container.metadata["comment"].split("; "))
    assert (comment["synthetic"], comment["model"], comment["seed"]) == ("true", MODEL, "77")
    assert comment["digitalsourcetype"].endswith("/trainedAlgorithmicMedia")
