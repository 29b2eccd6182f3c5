"""The models this package knows, by name."""

from wan.configs.models import INFINITETALK_MULTI_14B, INFINITETALK_SINGLE_14B, MULTITALK_14B, MULTITALK_PUPPET
from wan.configs.schema import ModelConfig

WAN_CONFIGS: dict[str, ModelConfig] = {
    "multitalk-14B": MULTITALK_14B,
    "infinitetalk-single-14B": INFINITETALK_SINGLE_14B,
    "infinitetalk-multi-14B": INFINITETALK_MULTI_14B,
    "multitalk-puppet": MULTITALK_PUPPET,
}

__all__ = ["WAN_CONFIGS", "ModelConfig"]
