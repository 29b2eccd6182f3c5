"""The two forms of request that deployments on RunPod know, as inputs of the predictor.

Frames are counted at 25 a second in both; `fps` says how many of them a second the file has, its duration kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.fields import FieldReader
from src.errors import InputError
from src.media.rates import FPS

MAX_FRAMES = 201
LEAST_FPS, MOST_FPS = 8, 60
DEFAULT_SEED = 42
LEAST_SIDE, MOST_SIDE = 64, 1280
PIXELS_480 = 480 * 832
"""Beyond this a request in pixels is made in the larger size class."""
MEDIA = "a URL, a data URI, base64 or a key of the bucket"
FIRST = (
    *("reference_image", "audio_1", "audio_2", "prompt", "num_frames", "seed", "turbo", "sampling_steps"),
    *("guidance_scale", "fps"),
)
SECOND = (
    *("action", "audio", "reference_image", "prompt", "seed", "duration", "width", "height", "fps"),
    *("output_format", "s3_output_key"),
)
NAMES_OF_FIRST = {
    "image": "reference_image",
    "first_audio": "audio_1",
    "second_audio": "audio_2",
    "text_guidance": "guidance_scale",
}
NAMES_OF_SECOND = {"image": "reference_image", "first_audio": "audio"}
OF_FIRST_ONLY = frozenset(FIRST) - frozenset(SECOND)
OF_SECOND_ONLY = frozenset(SECOND) - frozenset(FIRST)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A request in the predictor's terms. `media` still has to be fetched; `output` is s3, base64 or None for
    whichever can be; `detailed` asks for the second form's answer. `names` are the form's for the predictor's."""

    media: Mapping[str, str]
    values: Mapping[str, Any]
    names: Mapping[str, str]
    size: tuple[int, int] | None = None
    output: str | None = None
    key: str | None = None
    detailed: bool = False


def parse_request(fields: Mapping[str, Any], most_seconds: float) -> ParsedRequest:
    """The request, in whichever form it is, for at most so many seconds of video.

    InputError names the field, its value and what is allowed.
    """
    given = {name for name, value in fields.items() if value is not None}
    first, second = sorted(given & OF_FIRST_ONLY), sorted(given & OF_SECOND_ONLY)
    if first and second:
        raise InputError(
            f"{first[0]} and {second[0]} contradict each other: they belong to two forms of request; "
            f"allowed are either {', '.join(FIRST)}, or {', '.join(SECOND)}"
        )
    return parse_detailed(fields, most_seconds) if second else parse_basic(fields)


def parse_basic(fields: Mapping[str, Any]) -> ParsedRequest:
    """`reference_image`, `audio_1`, … with the defaults of its older deployments."""
    form = FieldReader(fields, FIRST)
    media = {
        "image": form.needed("reference_image", MEDIA),
        "first_audio": form.needed("audio_1", MEDIA),
    }
    if second := form.text("audio_2"):
        media["second_audio"] = second
    values = {
        "prompt": form.text("prompt"),
        "num_frames": form.whole("num_frames", 100, 1, MAX_FRAMES),
        "seed": form.whole("seed", DEFAULT_SEED, 0, 2**31 - 1),
        "turbo": form.switch("turbo", False),
        "sampling_steps": form.whole("sampling_steps", 20, 2, 100),
        "text_guidance": form.number("guidance_scale", 7.5, 1, 20),
        "fps": form.whole("fps", 8, LEAST_FPS, MOST_FPS),
    }
    return ParsedRequest(media=media, values=values, names=NAMES_OF_FIRST)


def parse_detailed(fields: Mapping[str, Any], most_seconds: float) -> ParsedRequest:
    """`action: generate`, with `duration` in seconds and a size in pixels."""
    form = FieldReader(fields, SECOND)
    form.text("action", allowed=("generate",))
    size = read_size(form)
    duration = form.number("duration", None, 1 / FPS, most_seconds)
    output = form.text("output_format", allowed=("s3", "base64"))
    if output == "base64" and form.has("s3_output_key"):
        raise InputError("output_format base64 and s3_output_key contradict each other; give one of them")
    key = form.text("s3_output_key")
    return ParsedRequest(
        media={"image": form.needed("reference_image", MEDIA), "first_audio": form.needed("audio", MEDIA)},
        values={
            "prompt": form.text("prompt"),
            "seed": form.whole("seed", None, 0, 2**31 - 1),
            "num_frames": None if duration is None else max(1, round(duration * FPS)),
            "fps": form.whole("fps", FPS, LEAST_FPS, MOST_FPS),
            "resolution": "720p" if size and size[0] * size[1] > PIXELS_480 else "480p",
        },
        names=NAMES_OF_SECOND,
        size=size,
        output="s3" if key else output,
        key=key,
        detailed=True,
    )


def read_size(form: FieldReader) -> tuple[int, int] | None:
    """Width and height in pixels, both or neither."""
    width, height = (form.whole(name, None, LEAST_SIDE, MOST_SIDE) for name in ("width", "height"))
    if width is None and height is None:
        return None
    if width is None or height is None:
        raise InputError("width and height belong together; give both or neither")
    if width % 2 or height % 2:
        raise InputError(f"width x height is {width} x {height}; even numbers are needed")
    return width, height
