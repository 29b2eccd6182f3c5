"""Requests that cannot be served, and what the answer must hold: the input, its value and what is allowed.

Each case changes a request that is good; files are described by their size and first bytes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.predict.conftest import MAX_SECONDS
from tests.predict.media_files import (
    RATE,
    SIZE,
    blank,
    half,
    plain,
    recorded,
    saved,
    tones,
    uri,
    video_without_audio,
    voice,
)

ABSENT = object()
PICTURES = "a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or JPEG 2000 image is needed"
SOUNDS = "an audio file, or a video with an audio stream, is needed"
CUT_OFF = ("damaged or cut off",)
UPLOADS = "an upload, an http or https URL or a data URI is needed"
ONE_FRAME = "at least 0.04 s"
MOST_PROMPT = "5,000"
MOST_SOUND = f"at most {MAX_SECONDS} s"
MOST_FRAMES = f"{MAX_SECONDS * 25} frames ({MAX_SECONDS} s, MAX_SECONDS)"
SEEDS = "2147483647"
TWO_BOXES = "0.1,0.1,0.4,0.9;0.6,0.1,0.9,0.9"
FOUR_NUMBERS = "x1,y1,x2,y2"
INSIDE = f"0 <= x1 < x2 <= {SIZE[0]} and 0 <= y1 < y2 <= {SIZE[1]}"
INSIDE_FRACTIONS = "0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1"
TOKEN = "at least one token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Inputs that replace those of a good request (ABSENT: left out), and the words of the answer.

    `schema`: the server's own check of the schema refuses it, before the predictor sees it.
    """

    title: str
    inputs: dict[str, Any]
    words: tuple[str, ...]
    schema: bool = False


def picture(title: str, data: bytes, *words: str) -> Case:
    """A file that is sent as the picture."""
    return Case(title=f"image: {title}", inputs={"image": uri(data)}, words=("image", *words))


def sound(title: str, data: bytes, *words: str, name: str = "first_audio", **others: Any) -> Case:
    """A file that is sent as a voice."""
    return Case(title=f"{name}: {title}", inputs={name: uri(data), **others}, words=(name, *words))


def value(name: str, given: Any, *words: str, title: str = "", **others: Any) -> Case:
    """A value that the predictor refuses."""
    return Case(title=f"{name}: {title or repr(given)}", inputs={name: given, **others}, words=(name, *words))


def boxes(text: str, *words: str, title: str = "", **others: Any) -> Case:
    """Boxes that the predictor refuses."""
    return value("person_boxes", text, *words, title=title, **others)


def schema(name: str, given: Any, *words: str) -> Case:
    """A value that the schema refuses."""
    title = "absent" if given is ABSENT else repr(given)
    return Case(title=f"{name}: {title}", inputs={name: given}, words=(name, *words), schema=True)


def samples(*first: float, seconds: float = 0.4) -> np.ndarray:
    """A tone that begins with the given samples."""
    tone_NC = tones(seconds)
    tone_NC[: len(first), 0] = first
    return tone_NC


def silence(seconds: float = 0.4) -> bytes:
    """A sound file of zeros."""
    return recorded(np.zeros((round(RATE * seconds), 1), np.float32))


TEXT = b"this is no picture and no sound, but a letter"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="9" height="9"/></svg>'
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"
ZIP = b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(80)
PLAYLIST = b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"

PICTURE_FILES = (
    picture("text", TEXT, "45 bytes", "begins with the text 'this is no picture a'", PICTURES),
    picture("empty", b"", "0 bytes", "empty", "at least one byte"),
    picture("one byte", b"\x89", "1 bytes", PICTURES),
    picture("SVG", SVG, "begins with the text '<svg xmlns=", PICTURES),
    picture("PDF", PDF, "looks like a PDF document", PICTURES),
    picture("ZIP", ZIP, "looks like a ZIP archive", PICTURES),
    picture("a video", voice("video"), "is a video", "multitalk-puppet", "supported by infinitetalk-14B-single"),
    picture("a WAV", voice(), "looks like WAV audio", PICTURES),
    picture("an MP3", voice("MP3"), "looks like MP3 audio", PICTURES),
    picture("half a PNG", half(plain("PNG")), "looks like a PNG image", *CUT_OFF, PICTURES),
    picture("half a JPEG", half(plain("JPEG")), "looks like a JPEG image", *CUT_OFF, PICTURES),
    picture("half a WebP", half(plain("WEBP")), "looks like a WebP image", PICTURES),
    picture("half a GIF", half(plain("GIF")), "looks like a GIF image", *CUT_OFF, PICTURES),
    picture("half a BMP", half(plain("BMP")), "bytes", *CUT_OFF, PICTURES),
    picture("half a TIFF", half(plain("TIFF")), "bytes", PICTURES),
    picture("half an AVIF", half(plain("AVIF")), "looks like an AVIF image", PICTURES),
    picture("half a JPEG 2000", half(plain("JPEG2000")), "bytes", PICTURES),
    picture("half a PPM", half(plain("PPM")), "bytes", PICTURES),
    picture("a PNG's first 30 bytes", plain()[:30], "30 bytes, looks like a PNG image", PICTURES),
    picture("a bomb of 400 million pixels", blank(20_000, 20_000), "400,000,000 pixels", "at most 80,000,000"),
    picture("a bomb of 100 million pixels", blank(10_000, 10_000), "10000 x 10000 pixels", "at most 80,000,000"),
    picture("a TIFF bomb", blank(10_000, 10_000, "TIFF"), "10000 x 10000 pixels", "at most 80,000,000"),
    picture("1 x 1", plain(size=(1, 1)), "1 x 1 pixels", "at least 32"),
    picture("31 x 64", plain(size=(31, 64)), "31 x 64 pixels", "at least 32"),
    picture("a long strip", blank(32_000, 32), "32000 x 32 pixels", "at most 16 times"),
    picture("a tall strip", blank(64, 32_000), "64 x 32000 pixels", "at most 16 times"),
)

SOUND_FILES = (
    sound("empty", b"", "0 bytes", "empty", "at least one byte"),
    sound("empty", b"", "0 bytes", "empty", "at least one byte", name="second_audio"),
    sound("text", TEXT, "45 bytes, begins with the text", SOUNDS),
    sound("text", TEXT, "45 bytes, begins with the text", SOUNDS, name="second_audio"),
    sound("a playlist of other files", PLAYLIST, "begins with the text '#EXTM3U", SOUNDS),
    sound("PDF", PDF, "looks like a PDF document", SOUNDS),
    sound("ZIP", ZIP, "looks like a ZIP archive", SOUNDS),
    sound("a picture", plain(), "looks like a PNG image", "no audio stream", SOUNDS),
    sound("a video without sound", video_without_audio(), "looks like an MP4 video", "no audio stream", SOUNDS),
    sound("half a WAV", half(voice("WAV")), "WAV audio", *CUT_OFF, "0.40 s", "complete file"),
    sound("half a FLAC", half(voice("FLAC")), "FLAC audio", *CUT_OFF, "0.40 s", "complete file"),
    sound("half an MP3", half(voice("MP3", 4.0)), "MP3 audio", *CUT_OFF, "complete file"),
    sound("half an OGG", half(voice("OGG")), "Ogg audio", *CUT_OFF),
    sound("half an M4A", half(voice("M4A")), "M4A audio", *CUT_OFF, SOUNDS),
    sound("half a video", half(voice("video")), "MP4 video", *CUT_OFF, SOUNDS),
    sound("a WAV's header", voice()[:44], "44 bytes, looks like WAV audio"),
    sound("a WAV without samples", recorded(np.zeros((0, 1), np.float32)), "WAV audio", "needed"),
    sound("all zeros", silence(), "its largest sample is 0", "at least 0.0001 of full scale"),
    sound("both all zeros", silence(), "second_audio", "0;", "at least 0.0001", second_audio=uri(silence())),
    sound("zeros beside a silent person", silence(), "0;", "at least 0.0001", person_boxes=TWO_BOXES),
    sound("NaN", recorded(samples(0, np.nan), subtype="FLOAT"), "NaN or infinite", "finite"),
    sound("infinite", recorded(samples(0, np.inf), subtype="FLOAT"), "NaN or infinite", "finite"),
    sound("minus infinite", recorded(samples(-np.inf), subtype="DOUBLE"), "finite", name="second_audio"),
    sound("0.03 s", voice("WAV", 0.03), "0.030 s", ONE_FRAME),
    sound("0.03 s", voice("WAV", 0.03), "0.030 s", ONE_FRAME, name="second_audio"),
    sound("longer than allowed", voice("FLAC", 31.0), "more than 30", MOST_SOUND),
    sound("longer than allowed", voice("FLAC", 31.0), "more than 30", MOST_SOUND, name="second_audio"),
    sound("a part that is longer than allowed", voice("FLAC", 45.0), "more than 30", MOST_SOUND, audio_duration=40),
    sound("a part without end", voice("FLAC", 45.0), "more than 30", MOST_SOUND, audio_duration=1e308),
    sound(
        "longer than allowed with the other",
        voice("FLAC", 20.0),
        *("second_audio", "last 40.00 s", MOST_FRAMES),
        second_audio=uri(voice("FLAC", 20.0)),
        num_frames=ABSENT,
    ),
)

VALUES = (
    value("audio_start", 0.5, "0.5 s", "first_audio ends at 0.40 s", "begin before"),
    value("audio_start", 0.4, "0.4 s", "first_audio ends at 0.40 s", "begin before"),
    value("audio_start", 0.39, "0.39 s", "0.010 s of first_audio", ONE_FRAME),
    value("audio_start", 1e308, "1e+308 s", "first_audio ends at 0.40 s", "begin before"),
    value("num_frames", 751, "751", MOST_FRAMES),
    value("num_frames", 10**9, "1,000,000,000", MOST_FRAMES),
    value("num_frames", 1e300, "1e+300", MOST_FRAMES),
    value("prompt", "", "''", MOST_PROMPT),
    value("prompt", "   ", "'   '", MOST_PROMPT),
    value("prompt", "\n\t\u2003", r"'\n\t\u2003'", MOST_PROMPT),
    value("prompt", "a" * 5_001, "5,001 characters", MOST_PROMPT, title="5,001 characters"),
    value("prompt", "a" * 100_000, "100,000 characters", MOST_PROMPT, title="100,000 characters"),
    value("negative_prompt", " \n", r"' \n'", MOST_PROMPT),
    value("negative_prompt", "a" * 5_001, "5,001 characters", MOST_PROMPT, title="5,001 characters"),
    value("image", "/etc/passwd", "'/etc/passwd'", UPLOADS),
    value("image", "file:///etc/passwd", "'file:///etc/passwd'", UPLOADS),
    value("image", "", "''", UPLOADS),
    value("first_audio", "", "''", UPLOADS),
    value("first_audio", "/etc/passwd", "'/etc/passwd'", UPLOADS),
    value("second_audio", "", "''", UPLOADS),
    value("second_audio", "../voice.wav", "'../voice.wav'", UPLOADS),
)

BOXES = (
    boxes(
        "0.1,0.1,0.9,0.9",
        *("'0.1,0.1,0.9,0.9'", "which is 1 with first_audio and second_audio", "2 to 10 are allowed"),
        second_audio=uri(voice()),
    ),
    boxes("0,0,1,1", "'0,0,1,1'", "nothing of person 2", TOKEN),
    boxes(f"{TWO_BOXES};0,0,1,1", "'0.1,0.1,", "nothing of person 1", TOKEN, second_audio=uri(voice())),
    boxes(";".join(["0,0,0.5,1"] * 11), "which is 11 with first_audio alone", "at most 10 are allowed"),
    boxes("0.1,0.1,0.4,0.9,1;0.6,0.1,0.9,0.9", "box 1 is '0.1,0.1,0.4,0.9,1'", "four numbers", FOUR_NUMBERS),
    boxes("0.1,0.1,0.4;0.6,0.1,0.9,0.9", "box 1 is '0.1,0.1,0.4'", "four numbers", FOUR_NUMBERS),
    boxes("left;right", "box 1 is 'left'", "four numbers", FOUR_NUMBERS),
    boxes(f"{TWO_BOXES};;", "box 3 is ''", "four numbers", FOUR_NUMBERS),
    boxes("0,0,nan,1;0.6,0.1,0.9,0.9", "box 1 is '0,0,nan,1'", "four numbers", FOUR_NUMBERS),
    boxes("0.1,0.1,0.4,0.9;0,0,inf,1", "box 2 is '0,0,inf,1'", "four numbers", FOUR_NUMBERS),
    boxes("0.4,0.1,0.1,0.9;0.6,0.1,0.9,0.9", "box 1 is '0.4,0.1,0.1,0.9'", INSIDE_FRACTIONS),
    boxes("0.1,0.1,0.4,0.9;0.6,0.9,0.9,0.1", "box 2 is '0.6,0.9,0.9,0.1'", INSIDE_FRACTIONS),
    boxes("0.1,0.1,0.1,0.9;0.6,0.1,0.9,0.9", "box 1 is '0.1,0.1,0.1,0.9'", INSIDE_FRACTIONS),
    boxes("-0.1,0.1,0.4,0.9;0.6,0.1,0.9,0.9", "box 1 is '-0.1,0.1,0.4,0.9'", INSIDE_FRACTIONS),
    boxes("9,9,99,99;150,9,300,99", "box 2 is '150,9,300,99'", INSIDE),
    boxes("9,9,99,99;150,99,200,9", "box 2 is '150,99,200,9'", INSIDE),
    boxes("9,9,99,129;150,9,200,99", "box 1 is '9,9,99,129'", INSIDE),
    boxes("0.1,0.1,0.101,0.9;0.6,0.1,0.9,0.9", "box 1 is '0.1,0.1,0.101,0.9'", "at least 1 pixel", "256 x 128"),
    boxes("3,3,5,5;9,9,99,99", "'3,3,5,5;9,9,99,99'", "person 1", TOKEN),
    boxes(
        "0,0.1,0.05,0.9;0.4,0.1,0.6,0.9",
        *("'0,0.1,0.05,0.9;0.4,0.1,0.6,0.9'", "person 1", "cropped", TOKEN),
        image=uri(plain(size=(512, 128))),
        second_audio=uri(voice()),
    ),
    boxes(f"0,0,1,1.{'0' * 50_000}", "'0,0,1,1.0000", "nothing of person 2", TOKEN, title="very long numbers"),
    boxes("0," * 50_000, "'0,0,0,", "100,000 characters", "four numbers", FOUR_NUMBERS, title="100,000 characters"),
)

WHITE = saved(Image.new("L", SIZE, 255))
DARK = saved(Image.new("L", SIZE, 90))
TALL = saved(Image.new("L", SIZE[::-1], 255))


def masks(title: str, files: list[bytes], *words: str, **others: Any) -> Case:
    """Masks that the predictor refuses."""
    return Case(
        title=f"person_masks: {title}",
        inputs={"person_masks": [uri(data) for data in files], **others},
        words=("person_masks", *words),
    )


MASKS = (
    masks("text", [TEXT], "45 bytes", PICTURES),
    masks("a sound", [voice()], "looks like WAV audio", PICTURES),
    masks("a video", [voice("video")], "looks like an MP4 video", PICTURES),
    masks("half a PNG", [half(plain("PNG"))], *CUT_OFF),
    masks("a bomb", [WHITE, blank(20_000, 20_000)], "number 2", "400,000,000 pixels", "at most 80,000,000"),
    masks("no white", [WHITE, DARK], "number 2", "no white pixel"),
    masks("another shape", [TALL], "128 x 256 pixels", "the image's 256 x 128 are needed"),
    masks("one for two", [WHITE], "has 1 with first_audio and second_audio", "2 to 10", second_audio=uri(voice())),
    masks("too many", [WHITE] * 11, "has 11", "at most 10"),
    masks("nobody else", [WHITE], "has 1", "nothing of person 2", TOKEN),
    masks("and boxes", [WHITE], "has 1", TWO_BOXES, "only one of them", person_boxes=TWO_BOXES),
    value("person_masks", ["/etc/passwd"], "'/etc/passwd'", UPLOADS),
)


def vocals(title: str, files: list[bytes], *words: str, **others: Any) -> Case:
    """Conditioning sounds that the predictor refuses."""
    return Case(
        title=f"conditioning_audio: {title}",
        inputs={"conditioning_audio": [uri(data) for data in files], **others},
        words=("conditioning_audio", *words),
    )


VOCALS = (
    vocals("text", [TEXT], "number 1", "45 bytes, begins with the text", SOUNDS),
    vocals("a picture", [plain()], "looks like a PNG image", SOUNDS),
    vocals("half a WAV", [half(voice())], *CUT_OFF),
    vocals("two for one", [voice(), voice()], "has 2 files", "there are 1 voices", "at most one for each"),
    vocals("longer", [voice("WAV", 1.0)], "1.00 s", "first_audio 0.40 s", "equal to within 0.5 s"),
    vocals("longer, second", [voice(), voice("WAV", 1.0)], "second_audio 0.40 s", second_audio=uri(voice())),
    vocals("all zeros", [silence()], "its largest sample is 0", "at least 0.0001 of full scale"),
    value("conditioning_audio", ["/etc/passwd"], "'/etc/passwd'", UPLOADS),
)

SCHEMA = (
    schema("image", ABSENT, "required"),
    schema("first_audio", ABSENT, "required"),
    schema("image", 5, "5", "string"),
    schema("first_audio", True, "true", "string"),
    schema("image", None, "null", "string"),
    schema("prompt", 5, "5", "string"),
    schema("prompt", None, "null", "string"),
    schema("num_frames", 0, "0", "minimum of 1"),
    schema("num_frames", -5, "-5", "minimum of 1"),
    schema("num_frames", 2.5, "2.5", "integer"),
    schema("num_frames", "ten", "ten", "integer"),
    schema("num_frames", None, "null", "integer"),
    schema("sampling_steps", 1, "1", "minimum of 2"),
    schema("sampling_steps", 101, "101", "maximum of 100"),
    schema("sampling_steps", 10.5, "10.5", "integer"),
    schema("sampling_steps", "10", "10", "integer"),
    schema("sampling_steps", True, "true", "integer"),
    schema("seed", -1, "-1", "minimum of 0"),
    schema("seed", 2**31, "2147483648", f"maximum of {SEEDS}"),
    schema("seed", 1e300, "1e+300", f"maximum of {SEEDS}"),
    schema("turbo", "yes", "yes", "boolean"),
    schema("turbo", 1, "1", "boolean"),
    schema("audio_mode", "loud", "loud", "add", "para"),
    schema("audio_mode", "", '""', "add", "para"),
    schema("resolution", "480", "480", "480p", "720p"),
    schema("resolution", 720, "720", "480p", "720p"),
    schema("text_guidance", 0.5, "0.5", "minimum of 1"),
    schema("text_guidance", 20.5, "20.5", "maximum of 20"),
    schema("audio_guidance", 0, "0", "minimum of 1"),
    schema("audio_guidance", 21, "21", "maximum of 20"),
    schema("shift", 0.9, "0.9", "minimum of 1"),
    schema("shift", 1e9, "1000000000", "maximum of 20"),
    schema("shift", "much", "much", "number"),
    schema("person_boxes", 5, "5", "string"),
    schema("audio_start", -0.1, "-0.1", "minimum of 0"),
    schema("audio_start", "1", "1", "number"),
    schema("audio_duration", 0, "0", "minimum of 0.04"),
    schema("audio_duration", -1, "-1", "minimum of 0.04"),
    schema("audio_duration", None, "null", "number"),
    schema("color_correction", -0.1, "-0.1", "minimum of 0"),
    schema("color_correction", 1.1, "1.1", "maximum of 1"),
    schema("use_apg", 0, "0", "boolean"),
    schema("lora", "mine", "mine", "FusionX", "lightx2v", "distilled"),
    schema("lora", "https://example.org/lora", "https://example.org/lora", "FusionX", "lightx2v", "distilled"),
    schema("lora_strength", -0.1, "-0.1", "minimum of 0"),
    schema("lora_strength", 2.5, "2.5", "maximum of 2"),
    schema("person_masks", uri(WHITE), "array"),
    schema("person_masks", [5], "5", "string"),
    schema("preview_speakers", "yes", "yes", "boolean"),
    schema("aspect", "16:9", "16:9", "bucket", "source"),
    schema("fps", 7, "7", "minimum of 8"),
    schema("fps", 61, "61", "maximum of 60"),
    schema("fps", 23.976, "23.976", "integer"),
    schema("conditioning_audio", uri(voice()), "array"),
    schema("detect_cuts", 1, "1", "boolean"),
    schema("preset", "best", "best", "quality", "balanced", "fast"),
    schema("cache", "deepcache", "deepcache", "teacache", "magcache", "none"),
    schema("guidance_reuse", 1, "1", "boolean"),
)

SHORTCUTS = (
    value("cache", "magcache", "sampling_steps is 2", "at least 10"),
    value("guidance_reuse", True, "none to reuse", "above 1", text_guidance=1, audio_guidance=1),
    value("guidance_reuse", True, "none to reuse", "above 1", title="with preset fast", preset="fast"),
)

LORAS = (value("lora", "lightx2v", "'lightx2v'", "what the operator has installed"),)

CASES = (*PICTURE_FILES, *SOUND_FILES, *VALUES, *BOXES, *MASKS, *VOCALS, *SCHEMA, *SHORTCUTS, *LORAS)
