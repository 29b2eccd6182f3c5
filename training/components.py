"""Trained components of the puppet model, loaded from their training runs.

A folder of runs has the subfolders `vae`, `decoder`, `speech`, `text`, `image` and `transformer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from diffusers import AutoencoderKLWan
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPVisionModel, PreTrainedTokenizerFast, UMT5EncoderModel, Wav2Vec2Config

from training.editions import EDITION
from training.training_loop import DEVICE, load_ema_weights
from wan.configs import ModelConfig
from wan.modules.image import ImageEncoder, build_image_encoder
from wan.modules.text import TextEncoder, build_text_encoder
from wan.modules.vae import build_vae

if TYPE_CHECKING:  # needs librosa, which a benchmark of the other networks does without
    from src.audio_analysis.wav2vec2 import Wav2Vec2Model

CONFIG = EDITION.config

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """All networks that prepare the transformer's inputs, in evaluation mode."""

    vae: AutoencoderKLWan
    speech: Wav2Vec2Model
    text: TextEncoder
    image: ImageEncoder


def load_vae(runs: Path) -> AutoencoderKLWan:
    """The video VAE on the CPU, with the fine-tuned decoder if there is one."""
    run = runs / "decoder" if (runs / "decoder" / "state.pt").exists() else runs / "vae"
    return with_weights(build_vae(CONFIG.vae), load_ema_weights(run))


def load_encoders(runs: Path) -> Encoders:
    """The encoders on `DEVICE`; the image encoder has no last block, as in the pipeline."""
    from src.audio_analysis.wav2vec2 import Wav2Vec2Model

    speech = with_weights(Wav2Vec2Model(speech_config(CONFIG)), load_ema_weights(runs / "speech", "encoder."))
    text: UMT5EncoderModel = with_weights(
        build_text_encoder(CONFIG.text_encoder), load_ema_weights(runs / "text", "encoder.")
    )
    image: CLIPVisionModel = build_image_encoder(CONFIG.image_encoder)
    image_state = {
        name: value
        for name, value in load_ema_weights(runs / "image", "encoder.").items()
        if name in image.state_dict()
    }
    return Encoders(
        vae=to_device(load_vae(runs)),
        speech=to_device(speech),
        text=TextEncoder(to_device(text), build_tokenizer(CONFIG), CONFIG.transformer.text_len),
        image=ImageEncoder(to_device(with_weights(image, image_state))),
    )


def build_tokenizer(config: ModelConfig) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that appends the end-of-sequence token of T5."""
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
    """A wav2vec2 with the layers and width that the transformer's audio projection expects, without dropout."""
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


def to_device(module: M) -> M:
    """Move a module to `DEVICE`."""
    module.to(DEVICE)
    return module


def with_weights(module: M, state: dict[str, Tensor]) -> M:
    """Load weights into a module, in evaluation mode. Raises RuntimeError that lists mismatched names."""
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)
