"""`python -m training.random_weights DIR`: a model with random weights in the published file formats.

What it writes is what a download leaves: sharded safetensors with an index, the audio layers apart, `.pth` files in
their original naming, the tokenizer, the speech encoder's folder. The ordinary loading code loads it.
"""

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from src.media.rates import SPEECH_RATE
from wan import naming
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules.image import build_image_encoder
from wan.modules.text import build_text_encoder
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import build_vae

logger = logging.getLogger(__name__)

AUDIO_NAMES = ("audio_proj.", ".audio_cross_attn.", ".norm_x.")
"""Parts of a name that mark a tensor as MultiTalk's rather than the base model's."""
SHARD_SIZE = "8MB"


def write_model(config: ModelConfig, folder: Path, seed: int) -> None:
    """Write every part of `config` below `folder`, drawn from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = folder / config.files.base
        base.mkdir(parents=True, exist_ok=True)
        write_transformer(config, folder)
        vae = build_vae(config.vae)
        write_pth(vae, naming.vae_name(config.vae.num_res_blocks), base / config.files.vae)
        write_pth(build_text_encoder(config.text_encoder), naming.text_encoder_name, base / config.files.text_encoder)
        write_image_encoder(config, base / config.files.image_encoder)
        build_tokenizer(config).save_pretrained(base / config.files.tokenizer)
        write_speech_encoder(config, folder / config.files.speech)


def write_transformer(config: ModelConfig, folder: Path) -> None:
    """The base shards with their index and `config.json`, and the audio layers in a folder of their own."""
    tensors = MultiTalkTransformer(config.transformer).state_dict()
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


def write_pth(module: nn.Module, name: naming.Naming, path: Path) -> None:
    """A module's parameters under their published names."""
    torch.save({name(ours): tensor for ours, tensor in module.state_dict().items()}, path)


def write_image_encoder(config: ModelConfig, path: Path) -> None:
    """The vision tower in the published naming; the last block and the head are there, as in the real file."""
    full = build_image_encoder(config.image_encoder, drop_last=False)
    tensors = {naming.image_encoder_name(ours): tensor for ours, tensor in full.state_dict().items()}
    tensors["visual.head"] = torch.randn(config.image_encoder.dim, config.image_encoder.dim)
    torch.save(naming.merge_qkv(tensors), path)


def build_tokenizer(config: ModelConfig) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: one token a byte, and the end-of-sequence token that T5 expects."""
    special = ["<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    assert len(vocabulary) <= config.text_encoder.vocab_size
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def speech_config(config: ModelConfig) -> Wav2Vec2Config:
    """A wav2vec2 of as many layers, and as wide, as the transformer's audio projection expects; no dropout."""
    width = config.transformer.audio_dim
    return Wav2Vec2Config(
        hidden_size=width,
        num_hidden_layers=config.transformer.audio_layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        conv_dim=(width,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        layerdrop=0.0,
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
    )


def write_speech_encoder(config: ModelConfig, folder: Path) -> None:
    """A wav2vec2 folder with random weights."""
    Wav2Vec2Model(speech_config(config)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=SPEECH_RATE, do_normalize=True).save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.random_weights", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--model", default="multitalk-puppet", choices=sorted(WAN_CONFIGS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_model(WAN_CONFIGS[options.model], options.folder, options.seed)
    logger.info("random weights of %s are in %s", options.model, options.folder)


if __name__ == "__main__":
    main()
