"""The two request formats of earlier RunPod deployments, basic and detailed, parsed into inputs of predict().

In both, frames are counted at 25 per second; `fps` is the frame rate of the file, whose duration does not change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.fields import FieldReader
from src.errors import InputError
from src.media.rates import FPS

MAX_FRAMES = 201
MIN_FPS, MAX_FPS = 8, 60
MAX_SEED = 2**31 - 1
DEFAULT_SEED = 42
MIN_SIDE, MAX_SIDE = 64, 1280
PIXELS_480P = 480 * 832
"""A requested size with more pixels than this is generated at 720p."""
FILE_FORMS = "a URL, a data URI, base64 or a key of the bucket"
BASIC_FIELDS = (
    *("reference_image", "audio_1", "audio_2", "prompt", "num_frames", "seed", "turbo", "sampling_steps"),
    *("guidance_scale", "fps"),
)
DETAILED_FIELDS = (
    *("action", "audio", "reference_image", "prompt", "seed", "duration", "width", "height", "fps"),
    *("output_format", "s3_output_key"),
)
BASIC_NAMES = {
    "image": "reference_image",
    "first_audio": "audio_1",
    "second_audio": "audio_2",
    "text_guidance": "guidance_scale",
}
DETAILED_NAMES = {"image": "reference_image", "first_audio": "audio"}
ONLY_BASIC = frozenset(BASIC_FIELDS) - frozenset(DETAILED_FIELDS)
ONLY_DETAILED = frozenset(DETAILED_FIELDS) - frozenset(BASIC_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A request in terms of predict().

    `files` are not yet fetched. `names` are the request's field names by input name, for error messages. `size` is
    (width, height) of the file, None for the model's own. `output` is "s3", "base64" or None for the bucket if there
    is one; `key` the object's key. `include_info` adds `video_info` to the answer.
    """

    files: Mapping[str, str]
    values: Mapping[str, Any]
    names: Mapping[str, str]
    size: tuple[int, int] | None = None
    output: str | None = None
    key: str | None = None
    include_info: bool = False


def parse_request(fields: Mapping[str, Any], max_seconds: float) -> ParsedRequest:
    """Detect the format and parse it; `max_seconds` bounds `duration`.

    InputError, which names the field, its value and what is allowed.
    """
    present = {name for name, value in fields.items() if value is not None}
    basic, detailed = sorted(present & ONLY_BASIC), sorted(present & ONLY_DETAILED)
    if basic and detailed:
        raise InputError(
            f"{basic[0]} and {detailed[0]} contradict each other: they belong to two request formats; "
            f"allowed are either {', '.join(BASIC_FIELDS)}, or {', '.join(DETAILED_FIELDS)}"
        )
    return parse_detailed(fields, max_seconds) if detailed else parse_basic(fields)


def parse_basic(fields: Mapping[str, Any]) -> ParsedRequest:
    """`reference_image`, `audio_1`, … with the defaults of those deployments."""
    reader = FieldReader(fields, BASIC_FIELDS)
    files = {
        "image": reader.required_string("reference_image", FILE_FORMS),
        "first_audio": reader.required_string("audio_1", FILE_FORMS),
    }
    if second := reader.string("audio_2"):
        files["second_audio"] = second
    values = {
        "prompt": reader.string("prompt"),
        "num_frames": reader.integer("num_frames", 100, 1, MAX_FRAMES),
        "seed": reader.integer("seed", DEFAULT_SEED, 0, MAX_SEED),
        "turbo": reader.boolean("turbo", False),
        "sampling_steps": reader.integer("sampling_steps", 20, 2, 100),
        "text_guidance": reader.number("guidance_scale", 7.5, 1, 20),
        "fps": reader.integer("fps", 8, MIN_FPS, MAX_FPS),
    }
    return ParsedRequest(files=files, values=values, names=BASIC_NAMES)


def parse_detailed(fields: Mapping[str, Any], max_seconds: float) -> ParsedRequest:
    """`action: generate`, `audio`, `duration` in seconds, a size in pixels, and where the video goes."""
    reader = FieldReader(fields, DETAILED_FIELDS)
    reader.string("action", allowed=("generate",))
    size = read_size(reader)
    duration = reader.number("duration", None, 1 / FPS, max_seconds)
    output = reader.string("output_format", allowed=("s3", "base64"))
    if output == "base64" and reader.has("s3_output_key"):
        raise InputError("output_format base64 and s3_output_key contradict each other; give one of them")
    key = reader.string("s3_output_key")
    return ParsedRequest(
        files={
            "image": reader.required_string("reference_image", FILE_FORMS),
            "first_audio": reader.required_string("audio", FILE_FORMS),
        },
        values={
            "prompt": reader.string("prompt"),
            "seed": reader.integer("seed", None, 0, MAX_SEED),
            "num_frames": None if duration is None else max(1, round(duration * FPS)),
            "fps": reader.integer("fps", FPS, MIN_FPS, MAX_FPS),
            "resolution": "720p" if size and size[0] * size[1] > PIXELS_480P else "480p",
        },
        names=DETAILED_NAMES,
        size=size,
        output="s3" if key else output,
        key=key,
        include_info=True,
    )


def read_size(reader: FieldReader) -> tuple[int, int] | None:
    """Width and height in pixels, even, both or neither."""
    width, height = (reader.integer(name, None, MIN_SIDE, MAX_SIDE) for name in ("width", "height"))
    if width is None and height is None:
        return None
    if width is None or height is None:
        raise InputError("width and height belong together; give both or neither")
    if width % 2 or height % 2:
        raise InputError(f"width x height is {width} x {height}; even numbers are needed")
    return width, height
