"""What is trained: the shipped model, or its second edition with larger frames and shaded drawings.

The environment variable PUPPET_EDITION, "first" or "second", selects it for all commands of `training`.
"""

import os
from dataclasses import dataclass, replace

from training.prompts import EXPRESSIONS, SHADED_PHRASES
from training.scenes import FULL, LARGE, SMALL, Drawing
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.configs.schema import VideoVAEConfig

Sizes = dict[str, tuple[int, int]]
_PUPPET = WAN_CONFIGS["multitalk-puppet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """A model and the clips that it learns from. `large_sizes` is the size class of a small share of them."""

    config: ModelConfig
    drawing: Drawing
    sizes: Sizes
    large_sizes: Sizes
    phrases: tuple[str, ...]

    def configure(self, name: str) -> ModelConfig:
        """The configuration of "multitalk-puppet" or "infinitetalk-puppet" in this edition."""
        return replace(WAN_CONFIGS[name], vae=self.config.vae, buckets=self.config.buckets)


EDITIONS = {
    "first": Edition(config=_PUPPET, drawing="flat", sizes=SMALL, large_sizes=LARGE, phrases=EXPRESSIONS),
    # Half the VAE's width at twice the height and width. Its latents are normalized by its own layers.
    "second": Edition(
        config=replace(
            _PUPPET,
            vae=VideoVAEConfig(dim=8, num_res_blocks=1, latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16),
            buckets={"480": {"0.50": FULL["wide"], "1.00": FULL["square"], "2.00": FULL["upright"]}},
        ),
        drawing="shaded",
        sizes=FULL,
        large_sizes=SMALL,
        phrases=SHADED_PHRASES,
    ),
}


def select_edition(name: str) -> Edition:
    """The edition of a name. Raises ValueError for an unknown one."""
    if name not in EDITIONS:
        raise ValueError(f"PUPPET_EDITION is {name!r}; {' or '.join(EDITIONS)} is allowed")
    return EDITIONS[name]


EDITION = select_edition(os.environ.get("PUPPET_EDITION", "first"))
