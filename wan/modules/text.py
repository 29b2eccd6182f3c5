"""Text encoder: clean, tokenize and encode a prompt with transformers' UMT5 encoder.

Shapes: S tokens, C = text_dim.
"""

from __future__ import annotations

import html
import logging
import re
from typing import TYPE_CHECKING

import ftfy
import torch
from torch import Tensor

from wan.configs.schema import TextEncoderConfig

if TYPE_CHECKING:  # transformers is imported on first use: it takes as long as torch
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

logger = logging.getLogger(__name__)


def build_text_encoder(config: TextEncoderConfig) -> UMT5EncoderModel:
    """transformers' module for a config; without weights inside `torch.device("meta")`."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=config.vocab_size,
            d_model=config.dim,
            d_kv=config.head_dim,
            d_ff=config.ffn_dim,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            relative_attention_num_buckets=config.num_buckets,
            relative_attention_max_distance=config.max_distance,
            layer_norm_epsilon=config.eps,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


def clean_prompt(prompt: str) -> str:
    """Fix mojibake, unescape HTML twice (for doubly escaped text), collapse whitespace."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


class TextEncoder:
    """A prompt to the hidden states of its tokens. Truncates to `text_len` tokens and logs a warning."""

    def __init__(self, model: UMT5EncoderModel, tokenizer: PreTrainedTokenizerBase, text_len: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.text_len = text_len

    def __call__(self, prompt: str) -> Tensor:
        """Hidden states without padding, 1 x S x C, S <= text_len; the last token is EOS."""
        ids = self.tokenizer(clean_prompt(prompt))["input_ids"]
        if len(ids) > self.text_len:
            logger.warning("the prompt has %d tokens; the first %d are used", len(ids), self.text_len)
            ids = [*ids[: self.text_len - 1], ids[-1]]
        return self.encode_ids(torch.tensor([ids], device=self.model.device))

    def encode_ids(self, ids_1S: Tensor) -> Tensor:
        """Hidden states of token ids, 1 x S x C."""
        return self.model(input_ids=ids_1S).last_hidden_state
