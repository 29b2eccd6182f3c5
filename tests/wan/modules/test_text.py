"""Cleaning, tokenization and encoding of prompts."""

import logging
from pathlib import Path

import pytest
import torch

from wan.checkpoint.components import load_text_encoder
from wan.checkpoint.layout import find_layout
from wan.configs import ModelConfig
from wan.modules.text import TextEncoder, clean_prompt


@pytest.fixture(scope="module")
def encoder(puppet: ModelConfig, puppet_folder: Path) -> TextEncoder:
    return load_text_encoder(puppet, find_layout(puppet, puppet_folder, "bf16"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  two\n\tpeople  talk ", "two people talk"),
        ("Tom &amp;amp; Anna", "Tom & Anna"),
        ("schÃ¶n", "schön"),
        ("你好", "你好"),
    ],
)
def test_prompts_are_cleaned(raw: str, cleaned: str) -> None:
    assert clean_prompt(raw) == cleaned


def test_states_are_of_the_prompt_tokens_and_eos(encoder: TextEncoder) -> None:
    states = encoder("hello")
    assert states.shape == (1, len("hello") + 1, 64)


def test_a_long_prompt_is_truncated_and_logged(encoder: TextEncoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        states = encoder("word " * 200)
    assert states.shape[1] == 128
    assert "has 1000 tokens; the first 128 are used" in caplog.text


def test_unpadded_encoding_matches_padding_with_a_mask(encoder: TextEncoder) -> None:
    ids = torch.tensor([encoder.tokenizer("people talk")["input_ids"]])
    padded = torch.nn.functional.pad(ids, (0, 9))
    mask = (torch.arange(padded.shape[1]) < ids.shape[1])[None]
    with torch.inference_mode():
        padded_states = encoder.model(input_ids=padded, attention_mask=mask).last_hidden_state[:, : ids.shape[1]]
        torch.testing.assert_close(encoder.encode_ids(ids), padded_states, atol=1e-5, rtol=1e-5)
