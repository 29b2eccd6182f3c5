"""Requests that cannot be served, and what the answer must hold: the input, its value and what is allowed.

One case for each input and each kind of answer. All kinds of damaged files are tested with the readers themselves.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.predict.conftest import MAX_SECONDS
from tests.predict.media_files import SIZE, blank, half, plain, recorded, saved, tones, uri, video_without_audio, voice

ABSENT = object()
IMAGES = "a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC or JPEG 2000 image is needed"
AUDIO = "an audio file, or a video with an audio stream, is needed"
URIS = "an upload, an http or https URL or a data URI is needed"
MAX_AUDIO = f"at most {MAX_SECONDS} s"
MAX_FRAMES = f"{MAX_SECONDS * 25} frames ({MAX_SECONDS} s, MAX_SECONDS)"
TWO_BOXES = "0.1,0.1,0.4,0.9;0.6,0.1,0.9,0.9"
FOUR = "four numbers are needed: x1,y1,x2,y2"
INSIDE = f"0 <= x1 < x2 <= {SIZE[0]} and 0 <= y1 < y2 <= {SIZE[1]}"
INSIDE_FRACTIONS = "0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1"
TOKEN = "at least one token"
TEXT = b"this is no picture and no sound, but a letter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Inputs that replace those of a good request (ABSENT: left out), and the words of the answer."""

    inputs: dict[str, Any]
    words: tuple[str, ...]


def case(name: str, value: Any, *words: str, **others: Any) -> Case:
    """A value that is refused; bytes are sent as data URIs."""
    return Case(inputs={key: encoded(each) for key, each in {name: value, **others}.items()}, words=(name, *words))


def encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [encoded(each) for each in value]
    return uri(value) if isinstance(value, bytes) else value


ZEROS = recorded(np.zeros((6400, 1), np.float32))
NAN = recorded(np.vstack([[[np.nan]], tones()]), subtype="FLOAT")
WHITE = saved(Image.new("L", SIZE, 255))
REFUSED_BY_PREDICTOR = (
    case("image", TEXT, "45 bytes", "begins with the text 'this is no picture a'", IMAGES),
    case("image", b"", "0 bytes", "empty", "at least one byte"),
    case("image", voice("video"), "is a video", "multitalk-puppet", "supported by infinitetalk-14B-single"),
    case("image", voice(), "looks like WAV audio", IMAGES),
    case("image", half(plain()), "looks like a PNG image", "damaged or cut off", IMAGES),
    case("image", blank(20_000, 20_000), "400,000,000 pixels", "at most 80,000,000"),
    case("image", plain(size=(31, 64)), "31 x 64 pixels", "at least 32"),
    case("image", blank(64, 32_000), "64 x 32000 pixels", "at most 16 times"),
    case("image", "file:///etc/passwd", "'file:///etc/passwd'", URIS),
    case("image", "", "''", URIS),
    case("first_audio", TEXT, "45 bytes, begins with the text", AUDIO),
    case("first_audio", plain(), "looks like a PNG image", "no audio stream", AUDIO),
    case("first_audio", video_without_audio(), "looks like an MP4 video", "no audio stream", AUDIO),
    case("first_audio", half(voice()), "WAV audio", "damaged or cut off", "0.40 s", "complete file"),
    case("first_audio", half(voice("M4A")), "M4A audio", "damaged or cut off", AUDIO),
    case("first_audio", recorded(np.zeros((0, 1), np.float32)), "WAV audio", "needed"),
    case("first_audio", ZEROS, "its amplitude is 0", "at least 0.0001 of full scale"),
    case("first_audio", ZEROS, "second_audio", "0;", "at least 0.0001", second_audio=ZEROS),
    case("first_audio", ZEROS, "0;", "at least 0.0001", person_boxes=TWO_BOXES),
    case("first_audio", voice("FLAC", 31.0), "more than 30", MAX_AUDIO),
    case("first_audio", voice("FLAC", 45.0), "more than 30", MAX_AUDIO, audio_duration=1e308),
    case("first_audio", LONG := voice("FLAC", 20.0), "40.00 s", MAX_FRAMES, second_audio=LONG, num_frames=ABSENT),
    case("second_audio", NAN, "NaN or infinite", "finite"),
    case("second_audio", voice("WAV", 0.03), "0.030 s", "at least 0.04 s"),
    case("second_audio", "../voice.wav", "'../voice.wav'", URIS),
    case("audio_start", 0.4, "0.4 s", "first_audio ends at 0.40 s", "begin before"),
    case("audio_start", 0.39, "0.39 s", "0.010 s of first_audio", "at least 0.04 s"),
    case("audio_start", 1e308, "1e+308 s", "first_audio ends at 0.40 s", "begin before"),
    case("num_frames", 751, "751", MAX_FRAMES),
    case("num_frames", 1e300, "1e+300", MAX_FRAMES),
    case("prompt", "\n\t\u2003", r"'\n\t\u2003'", "5,000"),
    case("prompt", "a" * 100_000, "100,000 characters", "5,000"),
    case("negative_prompt", " \n", r"' \n'", "5,000"),
    case("negative_prompt", "a" * 5_001, "5,001 characters", "5,000"),
    case("person_boxes", "0,0,1,1", "'0,0,1,1'", "nothing of person 2", TOKEN),
    case("person_boxes", "0,0,1,1;0,0,1,1", "both persons cover the same area", second_audio=voice()),
    case("person_boxes", f"{TWO_BOXES};0,0,1,1", "nothing of person 1", TOKEN, second_audio=voice()),
    case("person_boxes", ";".join(["0,0,0.5,1"] * 11), "which is 11 with first_audio alone", "at most 10 are allowed"),
    case("person_boxes", "0.1,0.1,0.4,0.9,1;0,0,1,1", "box 1 is '0.1,0.1,0.4,0.9,1'", FOUR),
    case("person_boxes", "left;right", "box 1 is 'left'", FOUR),
    case("person_boxes", f"{TWO_BOXES};;", "box 3 is ''", FOUR),
    case("person_boxes", "0,0,nan,1;0.6,0.1,0.9,0.9", "box 1 is '0,0,nan,1'", FOUR),
    case("person_boxes", "0.1,0.1,0.4,0.9;0,0,inf,1", "box 2 is '0,0,inf,1'", FOUR),
    case("person_boxes", "0.1,0.1,0.1,0.9;0,0,1,1", "box 1 is '0.1,0.1,0.1,0.9'", INSIDE_FRACTIONS),
    case("person_boxes", "0,0,1,1;0.6,0.9,0.9,0.1", "box 2 is '0.6,0.9,0.9,0.1'", INSIDE_FRACTIONS),
    case("person_boxes", "-0.1,0.1,0.4,0.9;0,0,1,1", "box 1 is '-0.1,0.1,0.4,0.9'", INSIDE_FRACTIONS),
    case("person_boxes", "9,9,99,99;150,9,300,99", "box 2 is '150,9,300,99'", INSIDE),
    case("person_boxes", "9,9,99,129;150,9,200,99", "box 1 is '9,9,99,129'", INSIDE),
    case("person_boxes", "0.1,0.1,0.101,0.9;0,0,1,1", "box 1 is '0.1,0.1,0.101,0.9'", "at least 1 pixel", "256 x 128"),
    case("person_boxes", "3,3,5,5;9,9,99,99", "'3,3,5,5;9,9,99,99'", "person 1", TOKEN),
    case(
        *("person_boxes", "0,0.1,0.05,0.9;0.4,0.1,0.6,0.9", "person 1", "cropped", TOKEN),
        image=plain(size=(512, 128)),
        second_audio=voice(),
    ),
    case("person_boxes", f"0,0,1,1.{'0' * 50_000}", "'0,0,1,1.0000", "nothing of person 2", TOKEN),
    case("person_boxes", "0," * 50_000, "'0,0,0,", "100,000 characters", FOUR),
    case("person_masks", [voice("video")], "looks like an MP4 video", IMAGES),
    case("person_masks", [WHITE, blank(20_000, 20_000)], "number 2", "400,000,000 pixels", "at most 80,000,000"),
    case("person_masks", [WHITE], "has 1 with first_audio and second_audio", "2 to 10", second_audio=voice()),
    case("person_masks", [WHITE], "has 1", "nothing of person 2", TOKEN),
    case("person_masks", [WHITE], "has 1", TWO_BOXES, "only one of them", person_boxes=TWO_BOXES),
    case("person_masks", ["/etc/passwd"], "'/etc/passwd'", URIS),
    case("conditioning_audio", [TEXT], "number 1", "45 bytes, begins with the text", AUDIO),
    case("conditioning_audio", [voice(), voice()], "has 2 files", "there are 1 voices", "at most one for each"),
    case("conditioning_audio", [voice("WAV", 1.0)], "1.00 s", "first_audio 0.40 s", "equal to within 0.5 s"),
    case("conditioning_audio", [ZEROS], "its amplitude is 0", "at least 0.0001 of full scale"),
    case("conditioning_audio", ["/etc/passwd"], "'/etc/passwd'", URIS),
    case("cache", "magcache", "sampling_steps is 2", "at least 10"),
    case("guidance_reuse", True, "none to reuse", "above 1", text_guidance=1, audio_guidance=1),
    case("guidance_reuse", True, "none to reuse", "above 1", preset="fast"),
    case("lora", "lightx2v", "'lightx2v'", "what the operator has installed"),
    case("loras", ["https://example.org/x.safetensors"], "https://example.org", "allowed is name"),
    case("loras", ["../mine"], "'../mine'", "allowed is", "distilled"),
    case("lora_files", [TEXT], "operator has installed", "MULTITALK_LORA_FILES"),
    case("loras", ["distilled:3"], "'distilled:3'", "from -2 to 2"),
    case("loras", ["distilled"], "distilled.safetensors twice", preset="fast"),
)

REFUSED_BY_SCHEMA = (
    case("image", ABSENT, "required"),
    case("first_audio", None, "null", "string"),
    case("prompt", 5, "5", "string"),
    case("num_frames", 0, "0", "minimum of 1"),
    case("num_frames", 2.5, "2.5", "integer"),
    case("sampling_steps", 101, "101", "maximum of 100"),
    case("sampling_steps", "10", "10", "integer"),
    case("sampling_steps", True, "true", "integer"),
    case("seed", 2**31, "2147483648", "maximum of 2147483647"),
    case("seed", 1e300, "1e+300", "maximum of 2147483647"),
    case("turbo", 1, "1", "boolean"),
    case("audio_mode", "", '""', "add", "para"),
    case("resolution", 720, "720", "480p", "720p"),
    case("text_guidance", 0.5, "0.5", "minimum of 1"),
    case("audio_guidance", 21, "21", "maximum of 20"),
    case("shift", "much", "much", "number"),
    case("person_boxes", 5, "5", "string"),
    case("audio_start", -0.1, "-0.1", "minimum of 0"),
    case("audio_duration", 0, "0", "minimum of 0.04"),
    case("color_correction", 1.1, "1.1", "maximum of 1"),
    case("use_apg", 0, "0", "boolean"),
    case("lora", "https://example.org/lora", "https://example.org/lora", "FusionX", "lightx2v", "distilled"),
    case("lora_strength", 2.5, "2.5", "maximum of 2"),
    case("person_masks", WHITE, "array"),
    case("person_masks", [5], "5", "string"),
    case("loras", "distilled", "array"),
    case("lora_files", "distilled", "array"),
    case("loras", [5], "5", "string"),
    case("preview_speakers", "yes", "yes", "boolean"),
    case("aspect", "16:9", "16:9", "bucket", "source"),
    case("fps", 23.976, "23.976", "integer"),
    case("conditioning_audio", voice(), "array"),
    case("detect_cuts", 1, "1", "boolean"),
    case("preset", "best", "best", "quality", "balanced", "fast"),
)
CASES = (*REFUSED_BY_PREDICTOR, *REFUSED_BY_SCHEMA)
