"""What the operator chooses: what is allowed, what follows from it, and what is told of a mistake."""

from pathlib import Path

import pytest

from app.settings import BUILT_IN, read_settings
from wan.configs import WAN_CONFIGS


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MULTITALK_MODEL", "multitalk-15B", ["'multitalk-15B'", ", ".join(WAN_CONFIGS)]),
        ("MULTITALK_MODEL", "", ["''", ", ".join(WAN_CONFIGS)]),
        ("MAX_SECONDS", "abc", ["'abc'", "from 0.04"]),
        ("MAX_SECONDS", "0", ["'0'", "from 0.04"]),
        ("MAX_SECONDS", "0.03", ["'0.03'", "from 0.04"]),
        ("MAX_SECONDS", "nan", ["'nan'", "from 0.04"]),
        ("MAX_SECONDS", "inf", ["'inf'", "from 0.04"]),
        ("MULTITALK_PERSISTENT_PARAMS", "-1", ["'-1'", "from 0"]),
        ("MULTITALK_PERSISTENT_PARAMS", "many", ["'many'", "from 0"]),
        ("MULTITALK_MEMORY_GB", "0", ["'0'", "from 0.001"]),
        ("MULTITALK_DTYPE", "fp4", ["'fp4'", "bf16, fp8, int8"]),
        *(("MAX_RUNTIME", value, [repr(value), "from 1 is needed"]) for value in ("0", "abc", "-5", "nan")),
        ("MULTITALK_ATTENTION", "fastest", ["'fastest'", "torch, cudnn, flash"]),
        ("MULTITALK_KERNELS", "off", ["'off'", "auto, plain"]),
    ],
)
def test_settings_that_cannot_be(name: str, value: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=name) as error:
        read_settings({name: value})
    assert all(word in str(error.value) for word in words)


def test_a_model_that_came_with_the_code_needs_no_folder() -> None:
    for name in ("multitalk-puppet", "infinitetalk-puppet"):
        assert read_settings({"MULTITALK_MODEL": name}).folder == BUILT_IN / "multitalk-puppet"
    assert read_settings({"MULTITALK_MODEL": "multitalk-puppet", "MODEL_PATH": "mine"}).folder == Path("mine")
    assert read_settings({"MULTITALK_MODEL": "multitalk-14B"}).folder == Path("weights")


def test_persistent_parameters() -> None:
    assert read_settings({}).persistent is None
    assert read_settings({"MULTITALK_PERSISTENT_PARAMS": "0"}).persistent == 0
    assert read_settings({"MULTITALK_PERSISTENT_PARAMS": "7e9"}).persistent == 7 * 10**9


def test_what_is_not_set_is_not_limited() -> None:
    settings = read_settings({})
    assert (settings.memory_limit, settings.persistent, settings.max_runtime) == (None, None, None)
    assert settings.limits.max_seconds == 600
    assert read_settings({"MULTITALK_MEMORY_GB": "0.5"}).memory_limit == 5 * 10**8
    assert read_settings({"MAX_RUNTIME": "1800"}).max_runtime == 1800


def test_the_tag_can_be_switched_off() -> None:
    assert read_settings({}).tagged
    assert not read_settings({"MULTITALK_TAG": "0"}).tagged
