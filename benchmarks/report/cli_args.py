"""Command-line arguments that benchmarks share: weights and sampling of the built-in model, folders of the pages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report.defaults import COLOR_CORRECTION, DOCS, MODEL, RESULTS, WEIGHTS
from src.command_line import Parser, existing_file, existing_folder, number, whole_number
from wan.configs import WAN_CONFIGS

if TYPE_CHECKING:
    from benchmarks.baseline.puppet import Puppet
    from wan.sampling.options import SamplingOptions

_PUPPETS = [name for name in WAN_CONFIGS if name.endswith("puppet")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the weights and every sampling option; options that are not given come from the preset."""
    parser.add_argument("--weights", type=Path, default=WEIGHTS, metavar="DIR", help="folder of the model's weights")
    parser.add_argument("--model", default=MODEL, choices=_PUPPETS, help="model configuration")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp8", "int8"), help="dtype of the weights")
    parser.add_argument("--lora", type=existing_file, help="safetensors file to merge (default: the preset's LoRA)")
    parser.add_argument("--no-lora", action="store_true", help="merge no LoRA")
    parser.add_argument(
        "--preset", default="fast", choices=("fast", "balanced", "quality", "turbo"), help="sampling preset"
    )
    parser.add_argument("--steps", type=whole_number(1, 1000), help="number of denoising steps (default: the preset's)")
    parser.add_argument("--shift", type=number(above=True), help="timestep shift (default: the preset's)")
    parser.add_argument("--text-guidance", type=number(), help="text guidance scale (default: the preset's)")
    parser.add_argument("--audio-guidance", type=number(), help="audio guidance scale (default: the preset's)")
    parser.add_argument("--teacache", type=number(), help="TeaCache threshold (default: the preset's)")
    parser.add_argument("--cache", choices=("teacache", "magcache", "none"), help="step cache (default: the preset's)")
    parser.add_argument("--magcache", type=number(), help="MagCache threshold (default: the model's)")
    parser.add_argument("--guidance-reuse", action="store_true", help="reuse guidance in every other late step")
    parser.add_argument("--apg", action="store_true", help="adaptive projected guidance")
    parser.add_argument(
        "--color", type=number(0, 1), default=COLOR_CORRECTION, help="color correction strength, 0 to 1"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of the clips and of the noise")


def make_page_parser(command: str, description: str | None) -> Parser:
    """The arguments of a command that writes a page from results."""
    parser = Parser(command, description)
    parser.add_argument(
        "--results", type=existing_folder, default=RESULTS, metavar="DIR", help="folder of the JSON results"
    )
    add_docs(parser)
    return parser


def add_docs(parser: Parser) -> None:
    """Add the folder that a page is written to."""
    parser.add_output(
        "--docs", is_folder=True, rewrite_default=True, default=DOCS, metavar="DIR", help="folder of the page"
    )


def load_puppet(args: argparse.Namespace) -> Puppet:
    """The selected model with the selected LoRA merged. FileNotFoundError for a folder that does not exist."""
    from benchmarks.baseline.puppet import Puppet
    from wan.checkpoint.lora import Lora

    if not args.weights.is_dir():
        raise FileNotFoundError(f"--weights is {str(args.weights)!r}; there is no such folder")
    puppet = Puppet(args.weights, args.precision, args.model)
    if args.lora is not None:
        puppet.set_loras([Lora(weights=args.lora)])
    elif not args.no_lora:
        puppet.set_preset_lora(_preset(args))
    return puppet


def sampling_options(puppet: Puppet, args: argparse.Namespace) -> SamplingOptions:
    """The preset's sampling options with the given arguments in place of its values."""
    return puppet.options(
        _preset(args),
        sampling_steps=args.steps,
        shift=args.shift,
        text_guide_scale=args.text_guidance,
        audio_guide_scale=args.audio_guidance,
        teacache_thresh=args.teacache,
        cache=args.cache,
        magcache_thresh=args.magcache,
        guidance_reuse=args.guidance_reuse,
        use_apg=args.apg or None,
        color_correction_strength=args.color,
        seed=args.seed,
    )


def _preset(args: argparse.Namespace) -> str | None:
    return None if args.preset == "turbo" else str(args.preset)
