"""Valid requests through the real server: the MP4 has what was asked for."""

import io
import itertools
import math
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np
import pytest
from PIL import Image

from src.serving.cog.server import InputRefusedError
from tests.conftest import ROOT
from tests.predict.conftest import MODEL, Service
from tests.predict.media_files import plain, recorded, saved, tones, two_people, uri, voice
from tests.predict.output_video import OutputVideo, correlation, decode_output, rms
from wan.configs import WAN_CONFIGS

BOXES = "0.05,0.1,0.2,0.6;0.6,0.1,0.95,1"
PIXEL_BOXES = "13,13,51,77;154,13,243,128"
SMALL_480 = (128, 64)
SMALL_720 = (192, 96)
FEW_MS = 0.005
LOW, HIGH = tones(0.4, pitch=300), tones(0.6, pitch=2000)
LOW_VOICE, HIGH_VOICE = uri(recorded(LOW)), uri(recorded(HIGH))
PEOPLE = two_people()


@pytest.fixture(scope="module")
def plain_video(service: Service) -> OutputVideo:
    """What the good request gives."""
    return decode_output(service.succeed())


def asked(service: Service, **inputs: Any) -> OutputVideo:
    return decode_output(service.succeed(**inputs))


@pytest.mark.parametrize("frames", [1, 34])
def test_exact_number_of_frames(service: Service, frames: int) -> None:
    sound = uri(recorded(tones(2.0)))
    answer = service.succeed(num_frames=frames, first_audio=sound)
    video = decode_output(answer)
    assert video.frames == frames == answer["metrics"]["frames"]
    assert video.video_seconds == pytest.approx(frames / 25)
    assert video.sound_seconds == pytest.approx(frames / 25, abs=FEW_MS)
    if frames > 1:
        assert np.diff(video.frames_FHWC.astype(int), axis=0).any()


def test_audio_is_padded_with_silence(service: Service) -> None:
    video = asked(service, num_frames=20)
    assert video.frames == 20
    assert video.sound_seconds == pytest.approx(0.8, abs=FEW_MS)
    assert rms(video.sound[round(0.5 * video.rate) :]) < 0.01 < rms(video.sound[: round(0.3 * video.rate)])


def test_two_voices_one_after_the_other(service: Service) -> None:
    video = asked(service, first_audio=LOW_VOICE, second_audio=HIGH_VOICE, num_frames=None, audio_mode="add")
    assert video.frames == 25
    assert correlation(video.sound, np.concatenate([LOW, HIGH])[:, 0]) > 0.98


def test_voices_and_boxes_change_the_video(service: Service, plain_video: OutputVideo) -> None:
    two = asked(service, second_audio=LOW_VOICE, first_audio=HIGH_VOICE)
    swapped = asked(service, second_audio=HIGH_VOICE, first_audio=LOW_VOICE)
    boxed = asked(service, second_audio=LOW_VOICE, first_audio=HIGH_VOICE, person_boxes=BOXES)
    pixels = asked(service, second_audio=LOW_VOICE, first_audio=HIGH_VOICE, person_boxes=PIXEL_BOXES)
    assert different(two, plain_video)
    assert different(two, swapped)
    assert different(two, boxed)
    assert not different(boxed, pixels)


def test_one_voice_with_two_boxes_has_a_silent_listener(service: Service, plain_video: OutputVideo) -> None:
    listening = asked(service, person_boxes=BOXES)
    silence = uri(recorded(np.zeros_like(tones())))
    assert different(listening, plain_video)
    assert not different(listening, asked(service, person_boxes=BOXES, second_audio=silence, audio_mode="para"))
    assert asked(service, person_boxes=BOXES, num_frames=None).frames == 10


def test_codecs_container_and_sync(service: Service) -> None:
    rate, channels = 44_100, 2
    given_NC = tones(0.4, rate, channels)
    video = asked(service, first_audio=uri(recorded(given_NC, rate)), num_frames=None)
    assert (video.codec, video.pixels, video.fps, video.size) == ("h264", "yuv420p", 25.0, SMALL_480)
    assert 0 < video.data.index(b"moov") < video.data.index(b"mdat")
    assert (video.sound_codec, video.rate, len(video.samples_CN)) == ("aac", rate, channels)
    assert video.frames == 10
    assert video.sound_seconds == pytest.approx(video.video_seconds, abs=FEW_MS)
    for found_N, given_N in zip(video.samples_CN, given_NC.T, strict=True):
        assert correlation(found_N, given_N) > 0.98


@pytest.mark.parametrize("form", ["MP3", "video"])
def test_audio_formats(service: Service, form: str) -> None:
    video = asked(service, first_audio=uri(voice(form)), num_frames=8)
    assert video.frames == 8
    assert correlation(video.sound, tones()[:, 0]) > 0.95


def test_audio_start_and_duration(service: Service) -> None:
    long_NC = tones(2.0)
    video = asked(service, first_audio=uri(recorded(long_NC)), audio_start=1.2, audio_duration=0.4, num_frames=None)
    part_NC = long_NC[round(1.2 * 16_000) : round(1.6 * 16_000)]
    assert video.frames == 10
    assert correlation(video.sound, part_NC[:, 0]) > 0.98
    assert not different(video, asked(service, first_audio=uri(recorded(part_NC)), num_frames=None))
    rest = asked(service, first_audio=uri(recorded(long_NC)), audio_start=1.8, audio_duration=9, num_frames=None)
    assert rest.frames == 5


def test_seed_determines_the_video(service: Service, plain_video: OutputVideo) -> None:
    assert asked(service).data == plain_video.data
    assert different(asked(service, seed=2), plain_video)
    assert not different(asked(service, seed=1.0), plain_video)


def test_drawn_seed_is_reported_and_reproduces_the_video(service: Service) -> None:
    answers = [service.succeed(seed=None) for _ in range(2)]
    seeds = [answer["metrics"]["seed"] for answer in answers]
    assert seeds[0] != seeds[1]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert f"seed {seeds[0]}" in answers[0]["logs"]
    assert asked(service, seed=seeds[0]).data == decode_output(answers[0]).data


def test_metrics(service: Service) -> None:
    metrics = service.succeed(num_frames=5, seed=77)["metrics"]
    assert (metrics["model"], metrics["seed"], metrics["frames"]) == (MODEL, 77, 5)
    assert (metrics["width"], metrics["height"]) == SMALL_480
    assert metrics["kernels"] == "plain"
    assert metrics["attention"]["self"] == "torch"
    seconds = metrics["seconds"]
    assert seconds.keys() == {
        *("total", "inputs", "speech", "prepare", "condition", "denoise", "decode", "encode", "finish")
    }
    assert sum(seconds.values()) - seconds["total"] == pytest.approx(seconds["total"], rel=0.2)
    assert metrics["seconds_per_step"] == pytest.approx(seconds["denoise"] / 2)
    assert all(math.isfinite(value) and value > 0 for value in seconds.values())


def test_log_lines_of_every_stage(service: Service) -> None:
    begin = len(service.lines)
    answer = service.succeed(num_frames=50, seed=5, image=uri((ROOT / "examples" / "two_people.png").read_bytes()))
    expected = ["seed 5, 50 frames", "speech", "prepare: chunk 1 of 2"]
    for chunk in (1, 2):
        of_chunk = f"chunk {chunk} of 2"
        expected += [f"condition: {of_chunk}"]
        expected += [f"denoise: {of_chunk}, step {step} of 2" for step in (1, 2)]
        expected += [f"decode: {of_chunk}", "encode"]
    expected += ["finish"]
    assert answer["logs"].splitlines() == expected
    assert decode_output(answer).frames == 50
    assert service.lines[begin:] == expected


def test_other_forms_of_the_same_image(service: Service, plain_video: OutputVideo) -> None:
    """With an alpha channel, in another format, and turned with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(PEOPLE.transpose(Image.Transpose.ROTATE_90), exif=exif)
    for data in (saved(PEOPLE.convert("RGBA")), plain("TIFF"), turned):
        assert not different(asked(service, image=uri(data)), plain_video)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((101, 203), (64, 128)), ((333, 333), (96, 96)), ((32, 32), (96, 96)), ((512, 32), SMALL_480)],
)
def test_image_sizes(service: Service, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert asked(service, image=uri(plain(size=size)), second_audio=HIGH_VOICE).size == expected


def test_resolution_720p(service: Service) -> None:
    answer = service.succeed(resolution="720p")
    assert decode_output(answer).size == SMALL_720
    assert (answer["metrics"]["width"], answer["metrics"]["height"]) == SMALL_720


def test_integers_as_floats_and_floats_as_integers(service: Service, plain_video: OutputVideo) -> None:
    inputs = {"num_frames": 1.0, "sampling_steps": 2.0, "seed": 1.0, "text_guidance": 2, "shift": 3, "audio_start": 0}
    assert not different(asked(service, **inputs), plain_video)


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
    "first_audio": {"first_audio": HIGH_VOICE},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_changes_the_video(service: Service, plain_video: OutputVideo, name: str) -> None:
    assert different(asked(service, **CHANGES[name]), plain_video)


@pytest.mark.parametrize(
    "inputs",
    [
        {"text_guidance": 2, "audio_guidance": 2.0, "shift": 3},
        {"negative_prompt": ""},
        {"negative_prompt": WAN_CONFIGS[MODEL].negative_prompt},
        {"person_boxes": " "},
        {"color_correction": 0.3},
    ],
)
def test_defaults(service: Service, plain_video: OutputVideo, inputs: dict[str, Any]) -> None:
    assert not different(asked(service, **inputs), plain_video)


def test_unknown_inputs_are_refused(service: Service) -> None:
    with pytest.raises(InputRefusedError, match="speed: not an input"):
        service.succeed(speed=2)


def test_explicit_values_win_over_turbo(service: Service) -> None:
    turbo = {"text_guidance": 2, "audio_guidance": 2, "shift": 3}
    quality = {"text_guidance": 3, "audio_guidance": 2, "shift": 3}
    slow = asked(service, turbo=False)
    assert not different(asked(service, turbo=False, **quality), slow)
    assert different(asked(service, turbo=False, **turbo), slow)


def test_each_cache_skips_different_steps(service: Service) -> None:
    movies = [asked(service, cache=cache, sampling_steps=12) for cache in ("none", "teacache", "magcache")]
    assert all(different(one, other) for one, other in itertools.combinations(movies, 2))


def test_long_prompt_is_truncated_with_a_warning(service: Service) -> None:
    long = "x" * 5_000
    answer = service.succeed(prompt=long)
    assert "has 5001 tokens; the first 128 are used" in answer["logs"]
    assert not different(decode_output(answer), asked(service, prompt=long[:4_000]))
    assert "tokens" not in service.succeed(prompt="x" * 100)["logs"]


def different(one: OutputVideo, other: OutputVideo) -> bool:
    """Whether any pixel of the frames that both have differs."""
    length = min(one.frames, other.frames)
    return not np.array_equal(one.frames_FHWC[:length], other.frames_FHWC[:length])


def test_provenance_comment(service: Service) -> None:
    with av.open(io.BytesIO(asked(service, seed=77).data)) as container:
        comment = dict(pair.split("=") for pair in container.metadata["comment"].split("; "))
    assert (comment["synthetic"], comment["model"], comment["seed"]) == ("true", MODEL, "77")
    assert comment["digitalsourcetype"].endswith("/trainedAlgorithmicMedia")


def test_a_photograph_is_answered_with_a_warning_by_the_built_in_model(service: Service) -> None:
    begin = len(service.lines)
    photograph = (Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").read_bytes()
    answer = service.succeed(image=uri(photograph))
    assert answer["metrics"]["warnings"].startswith("image looks like a photograph, and multitalk-puppet knows drawn")
    assert answer["metrics"]["warnings"] in service.lines[begin:]
    assert "warnings" not in service.succeed(image=uri((ROOT / "examples" / "portrait.png").read_bytes()))["metrics"]


def test_repair_of_a_recording_is_reported_in_metrics_and_log(service: Service) -> None:
    """The channels cancel each other in their mean."""
    voice_N1 = tones(0.5)
    recording = uri(recorded(np.concatenate([voice_N1, -voice_N1], axis=1)))
    begin = len(service.lines)
    answer = service.succeed(first_audio=recording, num_frames=5)
    warning = "first_audio was repaired for the lips, not for what is heard: opposite phase in channel 2"
    assert warning in answer["metrics"]["warnings"]
    assert warning in service.lines[begin:]
