"""Settings from the environment: the model, the path of its weights, memory and limits."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from app.speakers import video_unsupported_reason
from src.environment import Environ, read_choice, read_flag, read_folder, read_number
from src.request import MediaLimits
from src.storage.settings import MAX_LORA_MB
from src.storage.settings import read_settings as read_storage_settings
from wan.checkpoint import Precision
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules.attention import forced_backend
from wan.modules.kernels import dispatch
from wan.types import FPS

DEFAULT_MODEL = "multitalk-14B"
DEFAULT_MODEL_PATH = Path("weights")
BUILT_IN_MODELS = Path(__file__).parents[1] / "models"
"""Models in the repository, each in a folder of its name."""
DEFAULT_MAX_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The variables of docs/configuration.md.

    `lora_files`: whether requests may bring LoRAs, each of at most `max_lora_bytes`. `memory_limit` (bytes of GPU
    memory), `num_persistent_params` and `max_runtime` (seconds) are None for no limit; `precision` is None for that of
    the weights, `num_gpus` for all GPUs.
    """

    config: ModelConfig
    model_path: Path
    limits: MediaLimits
    precision: Precision | None
    memory_limit: int | None
    num_persistent_params: int | None
    num_gpus: int | None
    max_runtime: float | None
    embed_provenance: bool
    lora_dir: Path | None = None
    lora_files: bool = False
    max_lora_bytes: int = int(MAX_LORA_MB * 1e6)


def read_settings(environ: Environ) -> Settings:
    """Read the variables of `Settings`. Raises ValueError, which names the variable, for an invalid value."""
    config = WAN_CONFIGS[read_choice(environ, "MULTITALK_MODEL", tuple(WAN_CONFIGS), DEFAULT_MODEL)]
    is_chosen = "MULTITALK_DTYPE" in environ
    precision = read_choice(environ, "MULTITALK_DTYPE", get_args(Precision), "bf16")
    memory_gb = read_number(environ, "MULTITALK_MEMORY_GB", None, minimum=0.001)
    persistent = read_number(environ, "MULTITALK_PERSISTENT_PARAMS", None, minimum=0)
    forced_backend(environ)  # wan reads these two itself, on first use: report an error before the model is loaded
    dispatch.is_disabled(environ)
    downloads = read_storage_settings(environ).limits
    default_path = BUILT_IN_MODELS / config.built_in if config.built_in else DEFAULT_MODEL_PATH
    return Settings(
        config=config,
        model_path=Path(environ.get("MODEL_PATH", default_path)),
        limits=MediaLimits(
            max_seconds=read_number(environ, "MAX_SECONDS", DEFAULT_MAX_SECONDS, minimum=1 / FPS),
            local_files=read_flag(environ, "MULTITALK_LOCAL_FILES", default=False),
            video_unsupported=video_unsupported_reason(config),
        ),
        precision=cast(Precision, precision) if is_chosen else None,
        memory_limit=None if memory_gb is None else int(memory_gb * 1e9),
        num_persistent_params=None if persistent is None else int(persistent),
        num_gpus=read_num_gpus(environ),
        max_runtime=read_number(environ, "MAX_RUNTIME", None, minimum=1),
        lora_dir=read_folder(environ, "MULTITALK_LORA_DIR"),
        lora_files=downloads.lora_files,
        max_lora_bytes=downloads.max_lora_bytes,
        embed_provenance=read_flag(environ, "MULTITALK_TAG", default=True),
    )


def read_num_gpus(environ: Environ) -> int | None:
    """MULTITALK_GPUS: how many GPUs make one video; None for `all`."""
    text = environ.get("MULTITALK_GPUS") or "1"
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"MULTITALK_GPUS is {text!r}; a whole number from 1, or all, is needed")
    return int(text)
