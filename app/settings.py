"""What the operator chooses, from the environment: the model, where its weights are, and limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from app.speakers import video_unsupported_reason
from src.request import MediaLimits
from wan.checkpoint import Precision
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules.attention import forced_backend
from wan.modules.kernels import dispatch
from wan.types import FPS

DEFAULT_MODEL = "multitalk-14B"
DEFAULT_FOLDER = Path("weights")
BUILT_IN = Path(__file__).parents[1] / "models"
"""Models that came with the code, each in a folder of its name."""
DEFAULT_MAX_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The variables that the README lists; None where there is no limit. `memory_limit` is in bytes."""

    config: ModelConfig
    folder: Path
    limits: MediaLimits
    precision: Precision
    memory_limit: int | None
    persistent: int | None
    max_runtime: float | None
    tagged: bool


def read_settings(environ: Mapping[str, str]) -> Settings:
    """ValueError for a value that a variable cannot have."""
    name = one_of(environ, "MULTITALK_MODEL", DEFAULT_MODEL, tuple(WAN_CONFIGS))
    precision = one_of(environ, "MULTITALK_DTYPE", "bf16", get_args(Precision))
    max_seconds = read_number(environ, "MAX_SECONDS", least=1 / FPS)
    gigabytes = read_number(environ, "MULTITALK_MEMORY_GB", least=0.001)
    persistent = read_number(environ, "MULTITALK_PERSISTENT_PARAMS", least=0)
    check_backends(environ)
    config = WAN_CONFIGS[name]
    return Settings(
        config=config,
        folder=Path(environ.get("MODEL_PATH", BUILT_IN / config.built_in if config.built_in else DEFAULT_FOLDER)),
        limits=MediaLimits(
            max_seconds=DEFAULT_MAX_SECONDS if max_seconds is None else max_seconds,
            local_files=environ.get("MULTITALK_LOCAL_FILES", "0") == "1",
            video_unsupported=video_unsupported_reason(config),
        ),
        precision=cast(Precision, precision),
        memory_limit=None if gigabytes is None else int(gigabytes * 1e9),
        persistent=None if persistent is None else int(persistent),
        max_runtime=read_number(environ, "MAX_RUNTIME", least=1),
        tagged=environ.get("MULTITALK_TAG", "1") != "0",
    )


def one_of(environ: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    """One of several words; ValueError that names them."""
    value = environ.get(name, default)
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
    return value


def read_number(environ: Mapping[str, str], name: str, least: float) -> float | None:
    """A finite number, or None where the variable is not set; ValueError that names it."""
    text = environ.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number < float("inf"):
        raise ValueError(f"{name} is {text!r}; a number from {least:g} is needed")
    return number


def check_backends(environ: Mapping[str, str]) -> None:
    """The model reads two variables itself, when it first computes: a mistake in them is to be told before."""
    forced_backend(environ)
    dispatch.is_disabled(environ)
