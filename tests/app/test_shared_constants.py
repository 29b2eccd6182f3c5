"""`wan` and `src` do not import each other: values that both define must be equal."""

import pytest

import src.media.rates
import wan.types
from app.settings import DEFAULT_MODEL
from src.weights.manifest import CONVERTED
from wan.checkpoint.layout import MANIFEST
from weights import parser


def test_frame_rate() -> None:
    assert src.media.rates.FPS == wan.types.FPS


def test_manifest_of_converted_checkpoints() -> None:
    assert CONVERTED == MANIFEST


def test_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTITALK_MODEL", raising=False)
    assert parser().parse_args(["convert", "a", "b"]).model == DEFAULT_MODEL
