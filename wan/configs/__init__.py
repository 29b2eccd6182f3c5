"""Model configs by name."""

from wan.configs.models import (
    INFINITETALK_MULTI_14B,
    INFINITETALK_PUPPET,
    INFINITETALK_SINGLE_14B,
    MULTITALK_14B,
    MULTITALK_PUPPET,
)
from wan.configs.schema import ModelConfig

WAN_CONFIGS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        MULTITALK_14B,
        INFINITETALK_SINGLE_14B,
        INFINITETALK_MULTI_14B,
        MULTITALK_PUPPET,
        INFINITETALK_PUPPET,
    )
}

__all__ = ["WAN_CONFIGS", "ModelConfig"]
