"""Sampling options of one generation: the values of a preset, replaced by explicit arguments."""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np

from wan.configs.schema import ModelConfig, Preset
from wan.sampling.guidance import AdaptiveProjectedGuidance, CachedGuidance, ClassifierFreeGuidance, Guider
from wan.sampling.magcache import MAGCACHE_MIN_STEPS
from wan.types import TEMPORAL_STRIDE, Aspect

MIN_STEPS, MAX_STEPS = 1, 1000
MAX_SEED = 2**31 - 1

Cache = Literal["teacache", "magcache", "none"]
"""Method that decides which steps reuse the residuals of the blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """Sampling options. Raises ValueError for the first value out of range.

    `size_class` is a key of the model's buckets. `frame_num` (video frames of a chunk) and `motion_frame` (frames that
    it shares with the chunk before, fewer than `frame_num`) are 4n + 1; `max_frames_num` bounds the whole video.
    `sampling_steps`: 1 to 1000. `shift`: above 0; a higher one takes more steps at high noise. Guidance scales: 1 is no
    guidance. `color_correction_strength`: 0 to 1. `apg_momentum`, `apg_norm_threshold`: see
    `AdaptiveProjectedGuidance`. `aspect`: "bucket" (the nearest trained shape) or "source" (the image's).
    `teacache_thresh` applies to `cache` "teacache", `magcache_thresh` to "magcache"; 0 computes every step.
    `guidance_reuse`: every other step of the second half reuses the guidance of the step before.
    """

    size_class: str
    frame_num: int
    motion_frame: int
    sampling_steps: int
    shift: float
    text_guide_scale: float
    audio_guide_scale: float
    negative_prompt: str
    seed: int
    max_frames_num: int
    color_correction_strength: float
    teacache_thresh: float
    use_apg: bool
    apg_momentum: float = -0.75
    apg_norm_threshold: float = 55.0
    aspect: Aspect = "bucket"
    cache: Cache = "teacache"
    magcache_thresh: float = 0.12
    guidance_reuse: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for the first value of another type or out of range."""
        check_types({field.name: getattr(self, field.name) for field in fields(self)})
        for name in ("frame_num", "motion_frame"):
            if getattr(self, name) < 1 or getattr(self, name) % TEMPORAL_STRIDE != 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 4n + 1 and at least 1")
        if self.motion_frame >= self.frame_num:
            raise ValueError(f"motion_frame is {self.motion_frame}; it must be below frame_num, {self.frame_num}")
        if self.aspect not in get_args(Aspect):
            raise ValueError(f"aspect is {self.aspect!r}; allowed are {' and '.join(get_args(Aspect))}")
        if not MIN_STEPS <= self.sampling_steps <= MAX_STEPS:
            raise ValueError(f"sampling_steps is {self.sampling_steps}; allowed are {MIN_STEPS} to {MAX_STEPS}")
        if not self.shift > 0:
            raise ValueError(f"shift is {self.shift}; it must be above 0")
        if self.max_frames_num < 1:
            raise ValueError(f"max_frames_num is {self.max_frames_num}; it must be at least 1")
        if not 0 <= self.color_correction_strength <= 1:
            raise ValueError(f"color_correction_strength is {self.color_correction_strength}; allowed are 0 to 1")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}; allowed are 0 to {MAX_SEED}, or -1 to draw one")
        self._check_caching()

    def _check_caching(self) -> None:
        """Raise ValueError for inconsistent caching options."""
        if self.cache not in get_args(Cache):
            raise ValueError(f"cache is {self.cache!r}; allowed are {', '.join(get_args(Cache))}")
        if self.cache != "teacache" and self.teacache_thresh > 0:
            raise ValueError(f"teacache_thresh is {self.teacache_thresh}; with cache {self.cache!r} it must be 0")
        for name in ("teacache_thresh", "magcache_thresh", "apg_norm_threshold"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.cache == "magcache" and self.sampling_steps < MAGCACHE_MIN_STEPS:
            raise ValueError(
                f"cache is 'magcache' and sampling_steps is {self.sampling_steps}; too few to skip any, "
                f"it needs at least {MAGCACHE_MIN_STEPS}"
            )
        if self.guidance_reuse and self._scales == (1, 1):
            raise ValueError(
                "guidance_reuse is true and the guidance of text and of speech are both 1; there is none to reuse, "
                "one of them must be above 1"
            )

    @property
    def _scales(self) -> tuple[float, float]:
        return self.text_guide_scale, self.audio_guide_scale

    def guider(self) -> Guider:
        """A new guider; guiders have state, so each chunk needs its own."""
        guider: Guider = ClassifierFreeGuidance(*self._scales)
        if self.use_apg:
            guider = AdaptiveProjectedGuidance(*self._scales, self.apg_momentum, self.apg_norm_threshold)
        return CachedGuidance(guider) if self.guidance_reuse else guider


def check_types(values: Mapping[str, Any]) -> None:
    """Raise ValueError for the first value by name that has not the type of its field, or is NaN or Inf."""
    for name, value in values.items():
        kind = SamplingOptions.__annotations__.get(name)  # None: the constructor refuses it
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if kind is int and not (is_number and isinstance(value, Integral)):
            raise ValueError(f"{name} is {value!r:.100}; a whole number is needed")
        if kind is float and not (is_number and math.isfinite(value)):
            raise ValueError(f"{name} is {value!r:.100}; a finite number is needed")
        if kind is bool and not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r:.100}; True or False is needed")
        if kind is str and not isinstance(value, str):
            raise ValueError(f"{name} is {value!r:.100}; text is needed")


def choose_preset(config: ModelConfig, turbo: bool, name: str | None = None) -> Preset:
    """The named preset; without a name the turbo or quality preset. Raises ValueError for an unknown name."""
    if name is None:
        return config.turbo if turbo else config.presets["quality"]
    if name not in config.presets:
        raise ValueError(f"preset is {name!r}; {config.name} has {', '.join(config.presets)}")
    return config.presets[name]


def resolve_options(
    config: ModelConfig, *, size_class: str, turbo: bool, preset_name: str | None = None, **explicit: Any
) -> SamplingOptions:
    """The options of a preset at a size class, replaced by the explicit values that are not None.

    A negative seed is replaced by a random one, an empty negative prompt by the model's. The preset's TeaCache
    threshold applies only to `cache` "teacache". Raises ValueError for values out of range or inconsistent, an
    unknown size class, and MagCache at a size class without calibration.
    """
    if size_class not in config.buckets:
        raise ValueError(f"size class is {size_class!r}; {config.name} has {' and '.join(config.buckets)}")
    values = {name: value for name, value in explicit.items() if value is not None}
    check_types(values)
    values |= {name: value.item() for name, value in values.items() if isinstance(value, np.generic)}
    if not isinstance(turbo, bool):
        raise ValueError(f"turbo is {turbo!r:.100}; True or False is needed")
    cache = values.get("cache", "teacache")
    if cache == "magcache" and size_class not in config.magcache_ratios:
        raise ValueError(
            f"cache is 'magcache', for which {config.name} is not calibrated at size class {size_class}; "
            "`python -m benchmarks.calibration.magcache` does that"
        )
    preset = choose_preset(config, turbo, preset_name)
    defaults = SamplingOptions(
        size_class=size_class,
        frame_num=config.frame_num,
        motion_frame=config.motion_frame,
        sampling_steps=preset.sampling_steps,
        shift=preset.shift[size_class],
        text_guide_scale=preset.text_guide_scale,
        audio_guide_scale=preset.audio_guide_scale,
        negative_prompt=config.negative_prompt,
        seed=0,
        max_frames_num=1000,
        color_correction_strength=0.0,
        teacache_thresh=preset.teacache_thresh if cache == "teacache" else 0.0,
        use_apg=False,
    )
    if values.get("seed", -1) < 0:
        values["seed"] = secrets.randbelow(MAX_SEED + 1)
    if not values.get("negative_prompt"):
        values["negative_prompt"] = config.negative_prompt
    return replace(defaults, **values)
