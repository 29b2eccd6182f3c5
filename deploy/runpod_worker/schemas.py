"""The two request formats of earlier RunPod deployments, basic and detailed, parsed into inputs of predict().

In both, frames are counted at 25 per second; `fps` is the frame rate of the file, whose duration does not change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.fields import LIST_FIELDS, file_lists, lora_list
from src.errors import InputError
from src.media.rates import FPS
from src.serving.validation import validate_object

PIXELS_480P = 480 * 832
"""A requested size with more pixels than this is generated at 720p."""
TEXT = {"type": "string"}
SEED = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
FILE_FPS = {"type": "integer", "minimum": 8, "maximum": 60}
SIDE = {"type": "integer", "minimum": 64, "maximum": 1280}
BASIC_FIELDS: Mapping[str, Any] = {
    "reference_image": TEXT,
    "audio_1": TEXT,
    "audio_2": TEXT,
    "prompt": TEXT,
    "num_frames": {"type": "integer", "minimum": 1, "maximum": 201, "default": 100},
    "seed": SEED | {"default": 42},
    "turbo": {"type": "boolean", "default": False},
    "sampling_steps": {"type": "integer", "minimum": 2, "maximum": 100, "default": 20},
    "guidance_scale": {"type": "number", "minimum": 1, "maximum": 20, "default": 7.5},
    "fps": FILE_FPS | {"default": 8},
    **LIST_FIELDS,
}
DETAILED_FIELDS: Mapping[str, Any] = {
    "action": {"enum": ["generate"], "type": "string"},
    "audio": TEXT,
    "reference_image": TEXT,
    "prompt": TEXT,
    "seed": SEED,
    "duration": {"type": "number", "minimum": 1 / FPS},
    "width": SIDE,
    "height": SIDE,
    "fps": FILE_FPS | {"default": FPS},
    "output_format": {"enum": ["s3", "base64"], "type": "string"},
    "s3_output_key": TEXT,
    **LIST_FIELDS,
}
BASIC_NAMES = {
    "image": "reference_image",
    "first_audio": "audio_1",
    "second_audio": "audio_2",
    "text_guidance": "guidance_scale",
}
DETAILED_NAMES = {"image": "reference_image", "first_audio": "audio"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A request in terms of predict().

    `files` are not yet fetched. `names` are the request's field names by input name, for error messages. `size` is
    (width, height) of the file, None for the model's own. `output` is "s3", "base64" or None for the bucket if there
    is one; `key` the object's key. `include_info` adds `video_info` to the answer.
    """

    files: Mapping[str, str | Sequence[str]]
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
    basic = sorted(present & BASIC_FIELDS.keys() - DETAILED_FIELDS.keys())
    detailed = sorted(present & DETAILED_FIELDS.keys() - BASIC_FIELDS.keys())
    if basic and detailed:
        raise InputError(
            f"{basic[0]} and {detailed[0]} contradict each other: they belong to two request formats; "
            f"allowed are either {', '.join(BASIC_FIELDS)}, or {', '.join(DETAILED_FIELDS)}"
        )
    return parse_detailed(fields, max_seconds) if detailed else parse_basic(fields)


def parse_basic(fields: Mapping[str, Any]) -> ParsedRequest:
    """`reference_image`, `audio_1`, … with the defaults of those deployments."""
    schema = {"properties": BASIC_FIELDS, "required": ["reference_image", "audio_1"]}
    values = validate_object(fields, schema, noun="accepted field")
    files = {"image": values["reference_image"], "first_audio": values["audio_1"], **file_lists(values)}
    if values["audio_2"]:
        files["second_audio"] = values["audio_2"]
    inputs = {name: values[name] for name in ("prompt", "num_frames", "seed", "turbo", "sampling_steps", "fps")}
    inputs |= {"text_guidance": values["guidance_scale"], **lora_list(values)}
    return ParsedRequest(files=files, values=inputs, names=BASIC_NAMES)


def parse_detailed(fields: Mapping[str, Any], max_seconds: float) -> ParsedRequest:
    """`action: generate`, `audio`, `duration` in seconds, a size in pixels, and where the video goes."""
    properties = {**DETAILED_FIELDS, "duration": DETAILED_FIELDS["duration"] | {"maximum": max_seconds}}
    schema = {"properties": properties, "required": ["reference_image", "audio"]}
    values = validate_object(fields, schema, noun="accepted field")
    size = check_size(values["width"], values["height"])
    output, key, duration = values["output_format"], values["s3_output_key"], values["duration"]
    if output == "base64" and key is not None:
        raise InputError("output_format base64 and s3_output_key contradict each other; give one of them")
    return ParsedRequest(
        files={"image": values["reference_image"], "first_audio": values["audio"], **file_lists(values)},
        values={
            "prompt": values["prompt"],
            "seed": values["seed"],
            "num_frames": None if duration is None else max(1, round(duration * FPS)),
            "fps": values["fps"],
            **lora_list(values),
            "resolution": "720p" if size and size[0] * size[1] > PIXELS_480P else "480p",
        },
        names=DETAILED_NAMES,
        size=size,
        output="s3" if key else output,
        key=key,
        include_info=True,
    )


def check_size(width: int | None, height: int | None) -> tuple[int, int] | None:
    """Width and height in pixels, even, both or neither."""
    if width is None and height is None:
        return None
    if width is None or height is None:
        raise InputError("width and height belong together; give both or neither")
    if width % 2 or height % 2:
        raise InputError(f"width x height is {width} x {height}; even numbers are needed")
    return width, height
