"""Settings from the environment: defaults, accepted values and errors."""

from pathlib import Path

import pytest

from app.settings import BUILT_IN_MODELS, read_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("MULTITALK_MODEL", value) for value in ("multitalk-15B", "")),
        *(("MAX_SECONDS", value) for value in ("abc", "0", "0.03", "nan", "inf")),
        *(("MULTITALK_PERSISTENT_PARAMS", value) for value in ("-1", "many")),
        ("MULTITALK_MEMORY_GB", "0"),
        *(("MULTITALK_GPUS", value) for value in ("0", "-1", "1.5", "both", "²")),
        ("MULTITALK_DTYPE", "fp4"),
        *(("MAX_RUNTIME", value) for value in ("0", "abc", "-5", "nan")),
        ("MULTITALK_ATTENTION", "fastest"),
        ("MULTITALK_KERNELS", "off"),
    ],
)
def test_invalid_values_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is '{value}'; "):
        read_settings({name: value})


def test_built_in_models_have_a_default_path() -> None:
    for name in ("multitalk-puppet", "infinitetalk-puppet"):
        assert read_settings({"MULTITALK_MODEL": name}).model_path == BUILT_IN_MODELS / "multitalk-puppet"
    assert read_settings({"MULTITALK_MODEL": "multitalk-puppet", "MODEL_PATH": "mine"}).model_path == Path("mine")
    assert read_settings({"MULTITALK_MODEL": "multitalk-14B"}).model_path == Path("weights")


def test_num_persistent_params() -> None:
    assert read_settings({}).num_persistent_params is None
    assert read_settings({"MULTITALK_PERSISTENT_PARAMS": "0"}).num_persistent_params == 0
    assert read_settings({"MULTITALK_PERSISTENT_PARAMS": "7e9"}).num_persistent_params == 7 * 10**9


@pytest.mark.parametrize(("value", "expected"), [("", 1), ("1", 1), ("8", 8), ("all", None)])
def test_num_gpus(value: str, expected: int | None) -> None:
    assert read_settings({"MULTITALK_GPUS": value}).num_gpus == expected


def test_limits() -> None:
    settings = read_settings({})
    assert (settings.memory_limit, settings.max_runtime, settings.limits.max_seconds) == (None, None, 600)
    assert read_settings({"MULTITALK_MEMORY_GB": "0.5"}).memory_limit == 5 * 10**8
    assert read_settings({"MAX_RUNTIME": "1800"}).max_runtime == 1800
    assert read_settings({"MAX_SECONDS": "30"}).limits.max_seconds == 30


def test_provenance_can_be_disabled() -> None:
    assert read_settings({}).embed_provenance
    assert not read_settings({"MULTITALK_TAG": "0"}).embed_provenance
