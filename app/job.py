"""From validated inputs to a job: files read, sampling options resolved, LoRAs found, speakers laid out.

Everything that can be wrong with a request is raised here, as InputError, before any network runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from app.loras import find_loras, preset_name
from app.settings import Settings
from app.speakers import layout_speakers
from src.errors import InputError, truncated_repr
from src.request import MediaInputs, RawInputs, load_inputs
from wan.checkpoint.lora import Lora
from wan.chunks import fit_chunk
from wan.conditioning.layout import ImageLayout
from wan.modules.text import clean_prompt
from wan.sampling.options import SamplingOptions, resolve_options

MAX_PROMPT_CHARS = 5000
DEFAULT_STEPS = 40
"""The schema's default of sampling_steps. With a preset this value means "not set": the preset's own steps are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request whose every value has been checked.

    `fps` is the frame rate of the file; `preview` asks for the speaker overlay instead of a generated video.
    """

    media: MediaInputs
    layout: ImageLayout
    prompt: str
    options: SamplingOptions
    loras: tuple[Lora, ...]
    fps: int
    preview: bool
    has_second_voice: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the video in pixels."""
        return self.layout.crop.size

    def close(self) -> None:
        """Close the source video, if there is one."""
        self.media.close()


def prepare_job(settings: Settings, inputs: Mapping[str, Any]) -> Job:
    """Read and check everything. `inputs` are all inputs of `predict()`, valid by the schema.

    Raises InputError, which names the input, its value and what is allowed.
    """
    check_prompt("prompt", inputs["prompt"])
    if inputs["negative_prompt"]:
        check_prompt("negative_prompt", inputs["negative_prompt"])
    loras = find_loras(settings, inputs)
    options = resolve_sampling(settings, inputs)
    raw = raw_inputs(inputs)
    media = load_inputs(raw, settings.limits)
    try:
        layout = layout_speakers(settings.config, media, raw, options.size_class, options.aspect)
        return Job(
            media=media,
            layout=layout,
            prompt=inputs["prompt"],
            options=fit_options(settings, options, media.num_frames),
            loras=loras,
            fps=inputs["fps"],
            preview=inputs["preview_speakers"],
            has_second_voice=inputs["second_audio"] is not None,
        )
    except BaseException:
        media.close()
        raise


def raw_inputs(inputs: Mapping[str, Any]) -> RawInputs:
    """The inputs that name or describe files, of all inputs of a request."""
    lists = {name: inputs[name] or [] for name in ("person_masks", "conditioning_audio")}
    return RawInputs(**{field.name: inputs[field.name] for field in fields(RawInputs)} | lists)


def resolve_sampling(settings: Settings, inputs: Mapping[str, Any]) -> SamplingOptions:
    """Sampling options for a video of any length; InputError for values that contradict each other."""
    preset = preset_name(inputs)
    steps = inputs["sampling_steps"]
    try:
        return resolve_options(
            settings.config,
            aspect=inputs["aspect"],
            size_class=inputs["resolution"].removesuffix("p"),
            turbo=inputs["turbo"],
            preset_name=preset,
            sampling_steps=None if preset is not None and steps == DEFAULT_STEPS else steps,
            seed=inputs["seed"],
            negative_prompt=inputs["negative_prompt"],
            text_guide_scale=inputs["text_guidance"],
            audio_guide_scale=inputs["audio_guidance"],
            shift=inputs["shift"],
            color_correction_strength=inputs["color_correction"],
            use_apg=inputs["use_apg"],
            cache=inputs["cache"],
            guidance_reuse=inputs["guidance_reuse"],
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def fit_options(settings: Settings, options: SamplingOptions, num_frames: int) -> SamplingOptions:
    """The options for a video of `num_frames` frames: a short one gets a shorter chunk."""
    frame_num, motion_frame = fit_chunk(num_frames, settings.config.frame_num, settings.config.motion_frame)
    return replace(options, frame_num=frame_num, motion_frame=motion_frame, max_frames_num=num_frames)


def check_prompt(name: str, text: str) -> None:
    """InputError for more than MAX_PROMPT_CHARS characters, and for text that is blank after cleaning."""
    if len(text) > MAX_PROMPT_CHARS:
        raise InputError(f"{name} has {len(text):,} characters; at most {MAX_PROMPT_CHARS:,} are allowed")
    if not clean_prompt(text):
        raise InputError(
            f"{name} is {truncated_repr(text)}; it needs 1 to {MAX_PROMPT_CHARS:,} characters that are not all blank"
        )
