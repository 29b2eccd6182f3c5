"""The interface of the inputs matches its snapshot, and the schema is what Cog would read from predict.py."""

import json
from copy import deepcopy
from typing import Any

import pytest

from scripts.input_snapshot import SNAPSHOT, incompatibilities, interface
from src.serving.cog import schema
from tests.conftest import ROOT

HEAD = """
from typing import Optional
from cog import BasePredictor, Input, Path
CONSTANT = "a constant"
MAXIMUM = 5


class Predictor(BasePredictor):
"""


@pytest.fixture
def document() -> schema.Schema:
    return schema.openapi((ROOT / "predict.py").read_text(encoding="utf-8"))


def test_inputs_match_the_snapshot(document: schema.Schema) -> None:
    assert interface(document) == json.loads(SNAPSHOT.read_text()), "python -m scripts.generate_docs adds new inputs"


def test_incompatible_changes_are_found(document: schema.Schema) -> None:
    before = interface(document)

    def changed(index: int, **change: Any) -> list[dict[str, Any]]:
        after = deepcopy(before)
        after[index] |= change
        return after

    new = {"name": "new", "required": False}
    assert incompatibilities(before, before) == []
    assert incompatibilities(before, [*before, new]) == []
    assert incompatibilities(before, [*before, {**new, "required": True}]) == ["new must be optional"]
    assert incompatibilities(before, before[:-1]) == [f"{before[-1]['name']} was removed"]
    assert incompatibilities(before, [before[1], before[0], *before[2:]]) == ["the order has changed"]
    assert incompatibilities(before, [new, *before]) == ["the order has changed"]
    for change in ({"default": 30}, {"minimum": 1}, {"maximum": 1}, {"type": "number"}, {"nullable": True}):
        assert incompatibilities(before, changed(5, **change)) == ["sampling_steps has changed"]
    assert incompatibilities(before, changed(8, choices=["add"])) == ["audio_mode has changed"]


def test_every_input_has_a_description(document: schema.Schema) -> None:
    for name, field in document["components"]["schemas"]["Input"]["properties"].items():
        assert len(field["description"]) > 20, name
        assert field["description"].endswith("."), name
        if name == "seed":
            assert field["maximum"] <= 2147483647


def test_the_document_has_cogs_structure(document: schema.Schema) -> None:
    assert document["openapi"] == "3.0.2"
    assert list(document["paths"]) == ["/", "/health-check", "/predictions", "/predictions/{prediction_id}/cancel"]
    schemas = document["components"]["schemas"]
    properties = schemas["Input"]["properties"]
    assert schemas["Input"]["required"] == ["image", "first_audio"]
    assert schemas["Output"] == {"title": "Output", "type": "string", "format": "uri"}
    assert [field["x-order"] for field in properties.values()] == list(range(len(properties)))
    assert properties["second_audio"]["nullable"] is True
    assert properties["second_audio"]["default"] is None
    assert properties["sampling_steps"]["minimum"] == 2
    assert properties["audio_mode"]["allOf"] == [{"$ref": "#/components/schemas/audio_mode"}]
    assert "type" not in properties["audio_mode"]
    assert schemas["audio_mode"]["enum"] == ["add", "para"]


def read_field(argument: str) -> schema.Schema:
    """The property of one argument of a valid predictor."""
    source = f"{HEAD}    def predict(self, {argument}) -> Path:\n        ...\n"
    document = schema.openapi(source)
    (field,) = document["components"]["schemas"]["Input"]["properties"].values()
    result: schema.Schema = field
    return result


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ('a: str = Input(description="d", default="x")', {"type": "string", "default": "x"}),
        ('a: str = Input(description="d", default=CONSTANT)', {"default": "a constant"}),
        ('a: int = Input(description="d", default=-3, ge=-5)', {"default": -3, "minimum": -5}),
        ('a: float = Input(description="d", default=1, le=2.5)', {"type": "number", "maximum": 2.5}),
        ('a: Optional[Path] = Input(description="d", default=None)', {"nullable": True, "default": None}),
        ('a: int | None = Input(description="d", default=None)', {"nullable": True, "type": "integer"}),
        ('a: list[str] = Input(description="d")', {"type": "array", "items": {"type": "string"}}),
    ],
)
def test_supported_inputs(argument: str, expected: dict[str, Any]) -> None:
    field = read_field(argument)
    assert {key: field[key] for key in expected} == expected


@pytest.mark.parametrize(
    "argument",
    [
        'a: str = Input("x", description="d")',
        'a: str = Input(description="d" "e", default="x")',
        'a: str = Input(description="d" + "e", default="x")',
        'a: str = Input(description=f"d", default="x")',
        'a: str = Input(description="it\\\\\'s", default="x")',
        'a: str = Input(description=CONSTANT, default="x")',
        'a: str = Input(description="d", default="x" + "y")',
        'a: str = Input(description="d", default=IMPORTED)',
        'a: str = Input(description="d", default=str())',
        'a: str = Input(description="d", default=None)',
        'a: str = Input(description="d", default=3)',
        'a: str = Input(description="d", default="z", choices=["x", "y"])',
        'a: str = Input(description="d", default="x", choices=["x"])',
        'a: str = Input(description="d", default="x", choices=IMPORTED)',
        'a: str = Input(description="d", default_factory=list)',
        'a: str = Input(default="x")',
        'a: str = "x"',
        'a: int = Input(description="d", default=1, le=MAXIMUM)',
        'a: int = Input(description="d", default=1, le=2 * 3)',
        'a: int = Input(description="d", default=1, le=1_000)',
        'a: int = Input(description="d", default=9, le=5)',
        'a: int = Input(description="d", default=True)',
        'a: bool = Input(description="d", default=1)',
        'a: Optional[int] = Input(description="d")',
        'a: Path = Input(description="d", default="x.png")',
        'a: Literal["x", "y"] = Input(description="d", default="x")',
        'a: Mode = Input(description="d", default="x")',
        'a: int | str = Input(description="d", default=1)',
        'a=Input(description="d", default=1)',
        "a: str",
        '*, a: str = Input(description="d", default="x")',
        "**inputs",
    ],
)
def test_inputs_that_cog_would_misread_are_refused(argument: str) -> None:
    with pytest.raises(schema.SchemaError):
        read_field(argument)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    def predict", "    @torch.inference_mode()\n    def predict"),
        (" -> Path", ""),
        (
            "from cog import BasePredictor, Input, Path",
            "from cog import BasePredictor, Input\nfrom pathlib import Path",
        ),
        ("class Predictor", "class Other"),
        ("def predict", "def run"),
    ],
)
def test_methods_that_cog_would_misread_are_refused(old: str, new: str) -> None:
    source = f'{HEAD}    def predict(self, a: str = Input(description="d")) -> Path:\n        ...\n'
    assert old in source
    schema.openapi(source)
    with pytest.raises(schema.SchemaError):
        schema.openapi(source.replace(old, new))
