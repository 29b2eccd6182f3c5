"""`python -m training.random_weights DIR`: a model with random weights in the published file formats."""

from collections.abc import Sequence

from src.command_line import Parser, launch, log_messages, whole_number
from wan.configs import WAN_CONFIGS, ModelConfig


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m training.random_weights", __doc__)
    parser.add_output("folder", is_folder=True, metavar="DIR", help="folder of the model to write")
    parser.add_argument("--model", default="multitalk-puppet", choices=sorted(WAN_CONFIGS), help="configuration")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("training.random_weights", make_parser)

import logging
from pathlib import Path

import torch

from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from training.components import speech_config
from training.export import Networks, write_bundle
from wan.modules.image import build_image_encoder
from wan.modules.text import build_text_encoder
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import build_vae

logger = logging.getLogger(__name__)


def random_networks(config: ModelConfig, seed: int) -> Networks:
    """Every network of `config` with random weights from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Networks(
            transformer=MultiTalkTransformer(config.transformer),
            vae=build_vae(config.vae),
            text=build_text_encoder(config.text_encoder),
            image=build_image_encoder(config.image_encoder, drop_last=False),
            speech=Wav2Vec2Model(speech_config(config)),
        )


def write_model(config: ModelConfig, folder: Path, seed: int) -> None:
    """Write random networks below `folder`, in float32."""
    write_bundle(config, random_networks(config, seed), folder, torch.float32)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = make_parser().parse_args(argv)
    log_messages()
    write_model(WAN_CONFIGS[options.model], options.folder, options.seed)
    logger.info("random weights of %s are in %s", options.model, options.folder)
