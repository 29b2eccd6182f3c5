"""Command line arguments that choose weights and sampling, the same for every measurement of the small model."""

import argparse
from pathlib import Path
from typing import get_args

from benchmarks.baseline.puppet import COLOR_CORRECTION, MODEL, WEIGHTS, Puppet
from wan.checkpoint.lora import Lora
from wan.configs import WAN_CONFIGS
from wan.sampling.options import Cache, SamplingOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Weights, and every sampling value; what is not given comes from the preset."""
    parser.add_argument("--weights", type=Path, default=WEIGHTS, metavar="DIR")
    parser.add_argument("--model", default=MODEL, choices=[name for name in WAN_CONFIGS if name.endswith("puppet")])
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp8", "int8"))
    parser.add_argument("--lora", type=Path, help="a safetensors file to merge in place of the preset's own")
    parser.add_argument("--no-lora", action="store_true", help="merge nothing")
    parser.add_argument("--preset", default="fast", choices=("fast", "balanced", "quality", "turbo"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--shift", type=float)
    parser.add_argument("--text-guidance", type=float)
    parser.add_argument("--audio-guidance", type=float)
    parser.add_argument("--teacache", type=float)
    parser.add_argument("--cache", choices=get_args(Cache))
    parser.add_argument("--magcache", type=float, help="threshold")
    parser.add_argument("--guidance-reuse", action="store_true")
    parser.add_argument("--apg", action="store_true")
    parser.add_argument("--color", type=float, default=COLOR_CORRECTION)
    parser.add_argument("--seed", type=int, default=0, help="of the clips and of the noise")


def load(given: argparse.Namespace) -> Puppet:
    """The networks that were asked for."""
    puppet = Puppet(given.weights, given.precision, given.model)
    if given.lora is not None:
        puppet.use([Lora(weights=given.lora)])
    elif not given.no_lora:
        puppet.use_lora_of(_preset(given))
    return puppet


def options(puppet: Puppet, given: argparse.Namespace) -> SamplingOptions:
    """The sampling that was asked for."""
    return puppet.options(
        _preset(given),
        sampling_steps=given.steps,
        shift=given.shift,
        text_guide_scale=given.text_guidance,
        audio_guide_scale=given.audio_guidance,
        teacache_thresh=given.teacache,
        cache=given.cache,
        magcache_thresh=given.magcache,
        guidance_reuse=given.guidance_reuse,
        use_apg=given.apg or None,
        color_correction_strength=given.color,
        seed=given.seed,
    )


def _preset(given: argparse.Namespace) -> str | None:
    return None if given.preset == "turbo" else str(given.preset)
