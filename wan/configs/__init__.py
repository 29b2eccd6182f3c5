"""The models this package knows, by name."""

from wan.configs.models import MULTITALK_14B, MULTITALK_PUPPET
from wan.configs.schema import ModelConfig

WAN_CONFIGS: dict[str, ModelConfig] = {
    "multitalk-14B": MULTITALK_14B,
    "multitalk-puppet": MULTITALK_PUPPET,
}

__all__ = ["WAN_CONFIGS", "ModelConfig"]
