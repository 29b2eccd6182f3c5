"""Resolution of presets and explicit values."""

from dataclasses import replace
from typing import Any

import pytest

from wan.configs import WAN_CONFIGS
from wan.sampling.guidance import CachedGuidance, ClassifierFreeGuidance
from wan.sampling.options import MAX_SEED, choose_preset, resolve_options

CONFIG = WAN_CONFIGS["multitalk-14B"]


@pytest.mark.parametrize(
    ("turbo", "size_class", "text", "audio", "shift", "teacache"),
    [
        (True, "480", 3.0, 3.0, 5.0, 0.8),
        (True, "720", 3.0, 3.0, 8.0, 0.8),
        (False, "480", 5.0, 4.0, 7.0, 0.3),
        (False, "720", 5.0, 4.0, 11.0, 0.3),
    ],
)
def test_preset_values(turbo: bool, size_class: str, text: float, audio: float, shift: float, teacache: float) -> None:
    options = resolve_options(CONFIG, size_class=size_class, turbo=turbo)
    values = (options.text_guide_scale, options.audio_guide_scale, options.shift, options.teacache_thresh)
    assert values == (text, audio, shift, teacache)
    assert (options.frame_num, options.motion_frame, options.sampling_steps) == (81, 25, 40)


def test_a_named_preset_takes_precedence_over_turbo() -> None:
    fast = resolve_options(CONFIG, size_class="720", turbo=False, preset_name="fast")
    values = (fast.text_guide_scale, fast.audio_guide_scale, fast.shift, fast.teacache_thresh, fast.sampling_steps)
    assert values == (1.0, 2.0, 2.0, 0.0, 4)
    assert choose_preset(CONFIG, turbo=True, name="fast").lora == "lightx2v"
    explicit = resolve_options(CONFIG, size_class="720", turbo=True, preset_name="fast", sampling_steps=8)
    assert explicit.sampling_steps == 8
    with pytest.raises(ValueError, match="preset is 'best'; multitalk-14B has quality, balanced, fast"):
        choose_preset(CONFIG, turbo=True, name="best")


def test_explicit_values_take_precedence_except_none() -> None:
    options = resolve_options(
        CONFIG, size_class="480", turbo=True, text_guide_scale=1.5, shift=None, teacache_thresh=0.0
    )
    assert (options.text_guide_scale, options.shift, options.teacache_thresh) == (1.5, 5.0, 0.0)


def test_only_negative_seeds_are_drawn() -> None:
    assert resolve_options(CONFIG, size_class="480", turbo=True, seed=0).seed == 0
    drawn = {resolve_options(CONFIG, size_class="480", turbo=True, seed=-1).seed for _ in range(5)}
    assert len(drawn) > 1
    assert all(0 <= seed <= MAX_SEED for seed in drawn)


def test_an_empty_negative_prompt_becomes_the_default() -> None:
    assert resolve_options(CONFIG, size_class="480", turbo=True, negative_prompt="").negative_prompt.startswith(
        "bright"
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("frame_num", 80, "frame_num is 80; it must be 4n"),
        ("motion_frame", 24, "motion_frame is 24"),
        ("motion_frame", 81, "below frame_num, 81"),
        ("sampling_steps", 0, "sampling_steps is 0; allowed are 1 to 1000"),
        ("shift", 0.0, "shift is 0.0; it must be above 0"),
        ("shift", float("nan"), "shift is nan"),
        ("max_frames_num", 0, "max_frames_num is 0"),
        ("color_correction_strength", 1.5, "color_correction_strength is 1.5; allowed are 0 to 1"),
        ("color_correction_strength", float("nan"), "color_correction_strength is nan"),
        ("seed", 2**31, f"allowed are 0 to {MAX_SEED}"),
    ],
)
def test_values_out_of_range_are_errors(name: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resolve_options(CONFIG, size_class="480", turbo=True, **{name: value})


def test_another_cache_disables_teacache() -> None:
    assert resolve_options(CONFIG, size_class="480", turbo=True).cache == "teacache"
    for cache in ("magcache", "none"):
        options = resolve_options(CONFIG, size_class="480", turbo=True, cache=cache)
        assert (options.cache, options.teacache_thresh) == (cache, 0.0)


@pytest.mark.parametrize(
    ("explicit", "words"),
    [
        ({"cache": "deepcache"}, "cache is 'deepcache'; allowed are teacache, magcache, none"),
        ({"cache": "none", "teacache_thresh": 0.2}, "teacache_thresh is 0.2; with cache 'none' it must be 0"),
        ({"cache": "magcache", "teacache_thresh": 0.2}, "teacache_thresh is 0.2; with cache 'magcache'"),
        ({"cache": "magcache", "sampling_steps": 9}, "sampling_steps is 9; .* at least 10"),
        ({"cache": "magcache", "preset_name": "fast"}, "sampling_steps is 4; .* at least 10"),
        ({"cache": "magcache", "magcache_thresh": -0.1}, "magcache_thresh is -0.1"),
        ({"cache": "magcache", "magcache_thresh": float("nan")}, "magcache_thresh is nan"),
        ({"guidance_reuse": True, "text_guide_scale": 1, "audio_guide_scale": 1.0}, "guidance_reuse .* none to reuse"),
    ],
)
def test_inconsistent_caching_options_are_errors(explicit: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resolve_options(CONFIG, size_class="480", turbo=True, **explicit)


def test_an_uncalibrated_size_class_is_an_error_that_names_the_command() -> None:
    bare = replace(CONFIG, magcache_ratios={"480": CONFIG.magcache_ratios["480"]})
    assert resolve_options(bare, size_class="480", turbo=True, cache="magcache").cache == "magcache"
    with pytest.raises(ValueError, match=r"multitalk-14B is not calibrated at size class 720; `python -m benchmarks"):
        resolve_options(bare, size_class="720", turbo=True, cache="magcache")


def test_guidance_reuse_wraps_the_guider() -> None:
    def guider_type(**explicit: Any) -> type:
        return type(resolve_options(CONFIG, size_class="480", turbo=True, **explicit).guider())

    assert guider_type() is ClassifierFreeGuidance
    assert guider_type(guidance_reuse=True) is guider_type(guidance_reuse=True, use_apg=True) is CachedGuidance


def test_unknown_size_class_and_option_are_errors() -> None:
    with pytest.raises(ValueError, match="size class is '1080'; multitalk-14B has 480 and 720"):
        resolve_options(CONFIG, size_class="1080", turbo=True)
    with pytest.raises(TypeError, match="size_bucket"):
        resolve_options(CONFIG, size_class="480", turbo=True, size_bucket="x")
