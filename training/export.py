"""`python -m training.export RUNS DIR`: write the trained puppet model in the published file formats, in bfloat16.

The folder is laid out like the downloads of the 14B model: sharded safetensors with an index, a separate file of audio
layers, `.pth` files with the published keys, the tokenizer, and the folder of the speech encoder.
"""

from collections.abc import Sequence

from src.command_line import Parser, existing_folder, launch, log_messages


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m training.export", __doc__)
    parser.add_argument("runs", type=existing_folder, metavar="RUNS", help="folder of the training runs")
    parser.add_output("folder", is_folder=True, metavar="DIR", help="folder of the model to write")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("training.export", make_parser)

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionModel, UMT5EncoderModel, Wav2Vec2FeatureExtractor

from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.media.rates import SPEECH_RATE
from training.components import CONFIG, build_tokenizer, load_vae, speech_config, with_weights
from training.training_loop import load_ema_weights
from wan.checkpoint import keys
from wan.configs import ModelConfig
from wan.modules.image import build_image_encoder
from wan.modules.text import build_text_encoder
from wan.modules.transformer import FLOAT32_NAMES, MultiTalkTransformer

logger = logging.getLogger(__name__)

AUDIO_NAMES = ("audio_proj.", ".audio_cross_attn.", ".norm_x.")
"""Substrings of the keys that belong to MultiTalk's file and not to the base model."""
SHARD_SIZE = "8MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """Every network of a model; the vision tower has its last block."""

    transformer: MultiTalkTransformer
    vae: AutoencoderKLWan
    text: UMT5EncoderModel
    image: CLIPVisionModel
    speech: Wav2Vec2Model


def write_bundle(config: ModelConfig, networks: Networks, folder: Path, dtype: torch.dtype) -> None:
    """Write every network below `folder`, in `dtype` except parameters that stay in float32."""
    base = folder / config.files.base
    base.mkdir(parents=True, exist_ok=True)
    write_transformer(config, networks.transformer, folder, dtype)
    write_pth(networks.vae, keys.vae_key(config.vae.num_res_blocks), base / config.files.vae, dtype)
    write_pth(networks.text, keys.text_encoder_key, base / config.files.text_encoder, dtype)
    write_image_encoder(networks.image, base / config.files.image_encoder, dtype)
    build_tokenizer(config).save_pretrained(base / config.files.tokenizer)
    speech = {name: tensor.to(dtype) for name, tensor in networks.speech.state_dict().items()}
    networks.speech.save_pretrained(folder / config.files.speech, state_dict=speech)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=SPEECH_RATE, do_normalize=True)
    extractor.save_pretrained(folder / config.files.speech)


def write_transformer(config: ModelConfig, transformer: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Write the base shards with their index and `config.json`, and the file of audio layers."""
    tensors = {
        name: tensor if name.startswith(FLOAT32_NAMES) or name.endswith(FLOAT32_NAMES) else tensor.to(dtype)
        for name, tensor in transformer.state_dict().items()
    }
    audio = {name: tensor for name, tensor in tensors.items() if any(substring in name for substring in AUDIO_NAMES)}
    base_folder, audio_folder = folder / config.files.base, folder / config.files.audio
    save_torch_state_dict(
        {name: tensor for name, tensor in tensors.items() if name not in audio},
        base_folder,
        filename_pattern="diffusion_pytorch_model{suffix}.safetensors",
        max_shard_size=SHARD_SIZE,
    )
    (base_folder / "config.json").write_text(json.dumps(asdict(config.transformer), indent=2) + "\n")
    audio_folder.mkdir(parents=True, exist_ok=True)
    save_file(audio, audio_folder / config.files.audio_weights)


def write_pth(module: nn.Module, to_file_key: keys.KeyMap, path: Path, dtype: torch.dtype) -> None:
    """Write a module's parameters under their file keys."""
    torch.save({to_file_key(name): tensor.to(dtype) for name, tensor in module.state_dict().items()}, path)


def write_image_encoder(tower: CLIPVisionModel, path: Path, dtype: torch.dtype) -> None:
    """Write the vision tower with its last block and a head, as the published file has them."""
    tensors: dict[str, Tensor] = {
        keys.image_encoder_key(name): tensor.to(dtype) for name, tensor in tower.state_dict().items()
    }
    tensors["visual.head"] = torch.eye(int(tower.config.hidden_size), dtype=dtype)
    torch.save(keys.merge_qkv(tensors), path)


def load_trained_networks(runs: Path) -> Networks:
    """Load the results of all training runs; the vision tower's last block, which is unused, has random weights."""
    tower = build_image_encoder(CONFIG.image_encoder, drop_last=False)
    return Networks(
        transformer=with_weights(MultiTalkTransformer(CONFIG.transformer), load_ema_weights(runs / "transformer")),
        vae=load_vae(runs),
        text=with_weights(build_text_encoder(CONFIG.text_encoder), load_ema_weights(runs / "text", "encoder.")),
        image=with_weights(tower, tower.state_dict() | load_ema_weights(runs / "image", "encoder.")),
        speech=with_weights(Wav2Vec2Model(speech_config(CONFIG)), load_ema_weights(runs / "speech", "encoder.")),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = make_parser().parse_args(argv)
    log_messages()
    write_bundle(CONFIG, load_trained_networks(options.runs), options.folder, torch.bfloat16)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    logger.info("%s has %.1f MB", options.folder, size / 1e6)
