"""LoRAs of a request: names in the operator's folders, strengths, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.inputs import MAX_LORAS
from app.loras import find_loras, installed_loras
from app.settings import Settings, read_settings
from src.errors import InputError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """LoRAs of the model's folder, of the operator's own, and of both."""
    (tmp_path / "model").mkdir()
    for name in ("loras/distilled", "loras/film", "loras/a/rain", "loras/b/rain", "../own/film"):
        path = tmp_path / "model" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in (
        "own/v1.5/ink.v2.safetensors",
        "own/.hidden/secret.safetensors",
        "own/notes.txt",
        "secret.safetensors",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return read_settings(
        {
            "MULTITALK_MODEL": "multitalk-puppet",
            "MODEL_PATH": str(tmp_path / "model"),
            "MULTITALK_LORA_DIR": str(tmp_path / "own"),
        }
    )


def found(settings: Settings, *loras: str, **inputs: Any) -> list[tuple[str, float]]:
    """Path below the folder of both and strength of every LoRA of a request."""
    defaults = {
        "lora": "none",
        "lora_strength": 1.0,
        "preset": "none",
        "turbo": True,
        "loras": list(loras) or None,
        "lora_files": None,
    }
    root = settings.model_path.parent
    result = []
    for lora in find_loras(settings, defaults | inputs):
        assert isinstance(lora.weights, Path)
        result.append((lora.weights.relative_to(root).with_suffix("").as_posix(), lora.strength))
    return result


def test_no_lora_by_default(settings: Settings) -> None:
    assert found(settings) == []
    assert found(settings, loras=[]) == []


@pytest.mark.parametrize(
    ("item", "path", "strength"),
    [
        ("distilled", "model/loras/distilled", 1),
        ("distilled.safetensors", "model/loras/distilled", 1),
        (" distilled : 0.8 ", "model/loras/distilled", 0.8),
        ("distilled.safetensors:-2", "model/loras/distilled", -2),
        ("film", "own/film", 1),
        ("a/rain:1e-1", "model/loras/a/rain", 0.1),
        ("ink.v2", "own/v1.5/ink.v2", 1),
        ("v1.5/ink.v2:2", "own/v1.5/ink.v2", 2),
    ],
)
def test_names_and_strengths(settings: Settings, item: str, path: str, strength: float) -> None:
    assert found(settings, item) == [(path, strength)]


def test_file_at_the_top_wins_over_subfolders(settings: Settings) -> None:
    top = settings.model_path / "loras" / "rain.safetensors"
    top.touch()
    assert installed_loras(settings)["rain"] == top


def test_several_add_to_the_named_one_and_to_the_presets(settings: Settings) -> None:
    expected = [("model/loras/distilled", 0.5), ("own/film", 0.3), ("model/loras/a/rain", 1)]
    assert found(settings, "film:0.3", "a/rain", lora="distilled", lora_strength=0.5) == expected
    assert found(settings, "film:0.3", preset="fast") == [("model/loras/distilled", 1), ("own/film", 0.3)]
    assert found(settings, "film:0", "a/rain:0.0") == []
    assert found(settings, "distilled", preset="fast", lora_strength=0) == [("model/loras/distilled", 1)]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["absent"], "has 'absent', which this server does not have; allowed is a/rain, b/rain, distilled, film, ink"),
        (["secret"], "does not have"),
        (["../secret"], "does not have"),
        (["/etc/passwd"], "does not have"),
        ([".hidden/secret"], "does not have"),
        (["notes"], "does not have"),
        ([""], "does not have"),
        (["Wan2.1-I2V-14B-480P"], "does not have"),
        (["FusionX"], "does not have"),
        (["\0"], "does not have"),
        (["rain"], "several files; allowed is folder/name"),
        (["film:2.1"], "strength from -2 to 2"),
        (["film:nan"], "strength from -2 to 2"),
        (["film:inf"], "strength from -2 to 2"),
        (["film:strong"], "strength from -2 to 2"),
        (["film:"], "strength from -2 to 2"),
        (["https://example.org/film.safetensors"], "allowed is name or name:strength"),
        (["film", "film:0.5"], "film.safetensors twice"),
        (["film"] * (MAX_LORAS + 1), "9 items; at most 8"),
    ],
)
def test_invalid_items_are_refused(settings: Settings, items: list[str], words: str) -> None:
    with pytest.raises(InputError, match=rf"^loras .*{words}"):
        found(settings, *items)


def test_lora_of_the_preset_named_again_is_refused(settings: Settings) -> None:
    with pytest.raises(InputError, match=r"distilled\.safetensors twice"):
        found(settings, "distilled", preset="fast")


def test_no_folder_at_all(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no LoRA is installed"):
        found(replace(settings, model_path=tmp_path / "absent", lora_dir=None), "film")


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> tuple[Settings, list[Path]]:
    """Settings of an operator who allows own files, and two files."""
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.write_bytes(bytes(9))
    return replace(settings, lora_files=True), paths


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], [("one", 1), ("two", 1)]),
        (["file2:0.5"], [("two", 0.5), ("one", 1)]),
        (["file2:0", "file1:-1"], [("one", -1)]),
        (["film:0.3", "file1"], [("own/film", 0.3), ("one", 1), ("two", 1)]),
    ],
)
def test_own_files_and_their_strengths(
    own: tuple[Settings, list[Path]], items: list[str], expected: list[tuple[str, float]]
) -> None:
    settings, paths = own
    assert found(settings, *items, lora_files=paths) == expected


def test_own_files_win_over_installed_names(own: tuple[Settings, list[Path]]) -> None:
    settings, paths = own
    (settings.model_path / "loras" / "file1.safetensors").touch()
    assert found(settings, "file1:0.5", lora_files=paths) == [("one", 0.5), ("two", 1)]
    assert found(settings, "file1:0.5") == [("model/loras/file1", 0.5)]


@pytest.mark.parametrize(
    ("change", "items", "files", "words"),
    [
        ({"lora_files": False}, [], ["one"], "lora_files is given, but this server takes only LoRAs that the operator"),
        ({}, [], ["one"] * (MAX_LORAS + 1), "lora_files has 9 files; at most 8"),
        ({"max_lora_bytes": 8}, [], ["one"], r"lora_files \(number 1\).* at most 8 bytes are allowed"),
        ({}, [], ["one", "absent"], r"lora_files \(number 2\).* does not exist"),
        ({}, [], ["model"], r"lora_files \(number 1\).* is a folder"),
        ({}, ["file2"], ["one"], "loras has 'file2', which this server does not have; allowed is .*file1"),
        ({}, ["file1:3"], ["one"], "loras .* strength from -2 to 2"),
        ({}, ["file1", "file1:0.5"], ["one"], r"loras names lora_files \(file1\) twice"),
    ],
)
def test_invalid_own_files_are_refused(
    own: tuple[Settings, list[Path]], change: dict[str, Any], items: list[str], files: list[str], words: str
) -> None:
    settings, (path, _) = own
    with pytest.raises(InputError, match=f"^{words}"):
        found(replace(settings, **change), *items, lora_files=[path.with_name(name) for name in files])


def test_texts_are_no_own_files(own: tuple[Settings, list[Path]]) -> None:
    with pytest.raises(InputError, match=r"^lora_files \(number 1\) is '/etc/passwd'; an upload, an http"):
        found(own[0], lora_files=["/etc/passwd"])


def test_settings_of_own_files() -> None:
    settings = read_settings({"MULTITALK_MODEL": "multitalk-puppet"})
    assert (settings.lora_files, settings.max_lora_bytes) == (False, 1_500_000_000)
    settings = read_settings({"MULTITALK_LORA_FILES": "1", "MAX_LORA_MB": "2"})
    assert (settings.lora_files, settings.max_lora_bytes) == (True, 2_000_000)


def test_absent_lora_folder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^MULTITALK_LORA_DIR is '/absent'; an existing folder"):
        read_settings({"MULTITALK_LORA_DIR": "/absent"})
