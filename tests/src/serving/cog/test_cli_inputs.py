"""Inputs of the command line, without a server."""

import base64
from pathlib import Path
from typing import Any

import pytest

from src.serving.cog import schema
from src.serving.cog.cli_inputs import MAX_BODY_BYTES, data_uri, read_inputs


@pytest.fixture(scope="module")
def document(project: Path) -> schema.Schema:
    return schema.openapi((project / "predict.py").read_text())


@pytest.mark.parametrize(
    ("token", "name", "value"),
    [
        ("steps=3", "steps", 3),
        ("steps=3.0", "steps", 3),
        ("strength=3", "strength", 3.0),
        ("loud=True", "loud", True),
        ("loud=0", "loud", False),
        ("mode=para", "mode", "para"),
        ("note=@home", "note", "@home"),
        ("note=", "note", ""),
    ],
)
def test_values_take_the_type_of_the_schema(document: schema.Schema, token: str, name: str, value: Any) -> None:
    inputs = read_inputs(["image=https://example.org/a.png", token], document)
    assert inputs[name] == value
    assert type(inputs[name]) is type(value)


def test_a_name_given_twice_is_refused(document: schema.Schema) -> None:
    with pytest.raises(ValueError, match="steps"):
        read_inputs(["steps=1", "steps=2"], document)


def test_a_file_becomes_a_data_uri_with_its_mime_type(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x00\xff")
    assert data_uri(path) == f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_a_file_over_the_body_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    with path.open("wb") as file:
        file.truncate(MAX_BODY_BYTES)
    with pytest.raises(ValueError, match=r"long\.mp4"):
        data_uri(path)
