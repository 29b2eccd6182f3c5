"""A model in the published file formats, as a download leaves it; the ordinary loading code reads it.

`python -m training.export RUNS DIR` writes the trained small model: sharded safetensors with an index, the audio
layers apart, `.pth` files in their original naming, the tokenizer, the speech encoder's folder; bfloat16.
"""

import argparse
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
from training.components import CONFIG, build_tokenizer, filled, load_vae, speech_config
from training.training_loop import load_average
from wan.checkpoint import keys
from wan.configs import ModelConfig
from wan.modules.image import build_image_encoder
from wan.modules.text import build_text_encoder
from wan.modules.transformer import FLOAT32_NAMES, MultiTalkTransformer

logger = logging.getLogger(__name__)

AUDIO_NAMES = ("audio_proj.", ".audio_cross_attn.", ".norm_x.")
"""Parts of a name that mark a tensor as MultiTalk's rather than the base model's."""
SHARD_SIZE = "8MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """Every network of a model, the vision tower with its last block."""

    transformer: MultiTalkTransformer
    vae: AutoencoderKLWan
    text: UMT5EncoderModel
    image: CLIPVisionModel
    speech: Wav2Vec2Model


def write_bundle(config: ModelConfig, networks: Networks, folder: Path, dtype: torch.dtype) -> None:
    """Write every part below `folder`, in `dtype` but for what the network keeps in float32."""
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
    """The base shards with their index and `config.json`, and the audio layers in a folder of their own."""
    tensors = {
        name: tensor if name.startswith(FLOAT32_NAMES) or name.endswith(FLOAT32_NAMES) else tensor.to(dtype)
        for name, tensor in transformer.state_dict().items()
    }
    audio = {name: tensor for name, tensor in tensors.items() if any(part in name for part in AUDIO_NAMES)}
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


def write_pth(module: nn.Module, name: keys.KeyMap, path: Path, dtype: torch.dtype) -> None:
    """A module's parameters under their published names."""
    torch.save({name(ours): tensor.to(dtype) for ours, tensor in module.state_dict().items()}, path)


def write_image_encoder(tower: CLIPVisionModel, path: Path, dtype: torch.dtype) -> None:
    """The vision tower in the published naming; the last block and the head are there, as in the real file."""
    tensors: dict[str, Tensor] = {
        keys.image_encoder_key(ours): tensor.to(dtype) for ours, tensor in tower.state_dict().items()
    }
    tensors["visual.head"] = torch.eye(int(tower.config.hidden_size), dtype=dtype)
    torch.save(keys.merge_qkv(tensors), path)


def trained_networks(runs: Path) -> Networks:
    """What the training runs below a folder ended in; the vision tower's last block, which nobody uses, is random."""
    tower = build_image_encoder(CONFIG.image_encoder, drop_last=False)
    return Networks(
        transformer=filled(MultiTalkTransformer(CONFIG.transformer), load_average(runs / "transformer")),
        vae=load_vae(runs),
        text=filled(build_text_encoder(CONFIG.text_encoder), load_average(runs / "text", "encoder.")),
        image=filled(tower, tower.state_dict() | load_average(runs / "image", "encoder.")),
        speech=filled(Wav2Vec2Model(speech_config(CONFIG)), load_average(runs / "speech", "encoder.")),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    parser.add_argument("folder", type=Path, metavar="DIR")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_bundle(CONFIG, trained_networks(options.runs), options.folder, torch.bfloat16)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    logger.info("%s holds %.1f MB", options.folder, size / 1e6)


if __name__ == "__main__":
    main()
