"""Quantization maps: exactly their layers are loaded as 8-bit layers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wan.checkpoint.component import Component, load_component
from wan.checkpoint.quanto import map_content, parse_map, read_map
from wan.checkpoint.tensor_files import CheckpointError
from wan.modules.quantized import QuantizedLinear, quantize_rows

CPU = torch.device("cpu")
NONE = {"weights": "qint8", "activations": "none"}
MAP = {"a": NONE, "b": NONE}


class Small(nn.Module):
    """Two linear layers to quantize, one unquantized, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4, bias=False)
        self.c = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)


def quantized_file() -> dict[str, Tensor]:
    tensors = dict(Small().state_dict())
    for layer in MAP:
        data, scale = quantize_rows(tensors.pop(f"{layer}.weight"), torch.int8)
        tensors |= {f"{layer}.weight._data": data, f"{layer}.weight._scale": scale}
        tensors |= {f"{layer}.input_scale": torch.ones(()), f"{layer}.output_scale": torch.ones(())}
    return tensors


def load(tensors: dict[str, Tensor], layers: dict[str, Any] = MAP) -> Small:
    component = Component(
        build=Small,
        to_file_key=str,
        tensors=tensors,
        dtype=torch.bfloat16,
        quantization_map=parse_map(layers, "the map"),
    )
    return load_component(component, CPU)


def test_only_layers_of_the_map_are_quantized() -> None:
    tensors = quantized_file()
    module = load(tensors)
    assert [isinstance(layer, QuantizedLinear) for layer in (module.a, module.b, module.c)] == [True, True, False]
    assert torch.equal(module.state_dict()["a.data"], tensors["a.weight._data"])
    assert module.state_dict()["a.scale"].dtype == torch.float32
    assert {module.a.bias.dtype, module.c.weight.dtype, module.norm.weight.dtype} == {torch.bfloat16}


def test_activation_scales_are_optional() -> None:
    tensors = {name: tensor for name, tensor in quantized_file().items() if "put_scale" not in name}
    assert isinstance(load(tensors).b, QuantizedLinear)


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    new = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in {**quantized_file(), **new}.items() if tensor is not None}


DATA, SCALE = torch.zeros(4, 4, dtype=torch.int8), torch.ones(4, 1)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (changed(b__weight___data=None), r"1 in the map but without _data: b"),
        (changed(c__weight=None, c__weight___data=DATA, c__weight___scale=SCALE), "1 with _data but not in the map: c"),
        (changed(a__weight___data=DATA.to(torch.float8_e4m3fn)), "1 of another type than the map says: a"),
        (changed(a__weight___scale=None), r"1 missing: a\.weight\._scale"),
        (changed(a__weight___scale=torch.ones(1)), r"1 of another shape: a\.scale is \[1\], not \[4, 1\]"),
        (changed(a__weight=torch.zeros(4, 4)), r"1 unknown: a\.weight"),
        (changed(c__input_scale=SCALE), r"1 unknown: c\.input_scale"),
        (changed(c__weight=DATA), r"1 not in floating point: c\.weight is torch\.int8"),
    ],
)
def test_mismatch_between_map_and_file_is_refused(tensors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        load(tensors)


def test_layer_of_the_map_must_be_linear() -> None:
    tensors = changed(norm__weight=None, norm__weight___data=DATA, norm__weight___scale=SCALE)
    with pytest.raises(CheckpointError, match=r"missing: norm\.weight; 2 unknown: norm\.weight\._data"):
        load(tensors, {**MAP, "norm": NONE})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": {"weights": "qint4", "activations": "none"}}, "a is .*qint4"),
        ({"a": {"weights": "qint8", "activations": "qint8"}}, "activations none: a is"),
        ({"a": "qint8"}, "a is qint8"),
        ({}, "not a map"),
        ([], "not a map"),
    ],
)
def test_unsupported_maps_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    (tmp_path / "map.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=words):
        read_map(tmp_path / "map.json")


def test_invalid_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"map\.json is not a map"):
        read_map(tmp_path / "map.json")


def test_map_content_inverts_parse_map() -> None:
    assert map_content(parse_map(MAP, "the map")) == MAP
