"""The trained parts of the small model, as the training runs left them.

A folder of runs holds `vae`, `decoder`, `speech`, `text`, `image` and `transformer`, one run each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from diffusers import AutoencoderKLWan
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPVisionModel, PreTrainedTokenizerFast, UMT5EncoderModel, Wav2Vec2Config

from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from training.training_loop import DEVICE, load_average
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules.image import ImageEncoder, build_image_encoder
from wan.modules.text import TextEncoder, build_text_encoder
from wan.modules.vae import build_vae

CONFIG = WAN_CONFIGS["multitalk-puppet"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """Everything in front of the transformer, ready to infer."""

    vae: AutoencoderKLWan
    speech: Wav2Vec2Model
    text: TextEncoder
    image: ImageEncoder


def load_vae(runs: Path) -> AutoencoderKLWan:
    """The video VAE, on the CPU; its decoder as `training.finetune_decoder` left it, where that has run."""
    run = runs / "decoder" if (runs / "decoder" / "state.pt").exists() else runs / "vae"
    return filled(build_vae(CONFIG.vae), load_average(run))


def load_encoders(runs: Path) -> Encoders:
    """All that training the transformer needs, on `DEVICE`; the image encoder lacks its last block, as the pipeline's
    does."""
    speech = filled(Wav2Vec2Model(speech_config(CONFIG)), load_average(runs / "speech", "encoder."))
    text: UMT5EncoderModel = filled(build_text_encoder(CONFIG.text_encoder), load_average(runs / "text", "encoder."))
    image: CLIPVisionModel = build_image_encoder(CONFIG.image_encoder)
    kept = {
        name: value for name, value in load_average(runs / "image", "encoder.").items() if name in image.state_dict()
    }
    return Encoders(
        vae=placed(load_vae(runs)),
        speech=placed(speech),
        text=TextEncoder(placed(text), build_tokenizer(CONFIG), CONFIG.transformer.text_len),
        image=ImageEncoder(placed(filled(image, kept))),
    )


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


def placed(module: M) -> M:
    """The module on the device that training computes on."""
    module.to(DEVICE)
    return module


def filled(module: M, state: dict[str, Tensor]) -> M:
    """The module with these weights, ready to infer. Raises RuntimeError that lists what does not fit."""
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)
