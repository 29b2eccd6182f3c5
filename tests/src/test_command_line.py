"""What the commands share: arguments, outputs that exist, errors in one line."""

import sys
from pathlib import Path
from typing import Any

import pytest

from src.command_line import (
    Parser,
    existing_file,
    existing_folder,
    number,
    one_line_errors,
    require_packages,
    whole_number,
    write_atomically,
)
from tests.conftest import ROOT

BARE = [sys.executable, "-S", "-E"]
"""This Python without its packages."""


def parse(*arguments: str) -> Any:
    parser = Parser("x.py", "Text")
    parser.add_argument("--steps", type=whole_number(), default=3)
    parser.add_argument("--rate", type=number(above=True))
    parser.add_argument("--share", type=number(0, 1))
    parser.add_argument("--folder", type=existing_folder)
    parser.add_argument("--file", type=existing_file)
    parser.add_output("--output")
    parser.add_output("--page", default=Path("pyproject.toml"), rewrite_default=True)
    parser.add_output("--target", is_folder=True)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        *[(f"--steps={text}", ["--steps", repr(text), "at least 1"]) for text in ("0", "-2", "2.5", "nan", "many", "")],
        *[(f"--rate={text}", ["--rate", repr(text), "above 0"]) for text in ("0", "-1", "nan", "inf", "fast")],
        *[(f"--share={text}", ["--share", repr(text), "at most 1"]) for text in ("-0.1", "1.5", "nan")],
        ("--folder=/no/such", ["--folder", "/no/such"]),
        ("--file=/no/such", ["--file", "/no/such"]),
        ("--output=src", ["src", "folder"]),
        ("--output=README.md", ["README.md exists", "--overwrite"]),
        ("--page=README.md", ["README.md exists", "--overwrite"]),
        ("--target=README.md", ["README.md", "folder is needed"]),
        ("--target=src", ["src exists and is not empty", "--overwrite"]),
        ("--output=README.md/x", ["README.md"]),
        ("--step=3", ["--step"]),
    ],
)
def test_invalid_arguments_are_refused_in_one_line_with_status_2(
    argument: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        parse(argument)
    message = capsys.readouterr().err
    assert ended.value.code == 2
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert [word for word in words if word not in message] == []


def test_an_output_is_replaced_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "empty").mkdir()
    (tmp_path / "old").write_text("old")
    assert parse(f"--output={tmp_path / 'new'}", f"--target={tmp_path / 'empty'}").steps == 3
    assert parse(f"--output={tmp_path / 'old'}", "--overwrite").overwrite


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("x.py", "Text")
    parser.add_argument("--steps", type=whole_number(), default=3, help="number of steps")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "number of steps (default: 3)" in capsys.readouterr().out


def write(path: Path, text: str) -> None:
    path.write_text(text)


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.mp4"
    written = [write_atomically(path, lambda partial: write(partial, "x"), overwrite=False) for _ in "ab"]
    assert [each.name for each in written] == ["a.mp4", "a-2.mp4"]
    assert write_atomically(path, lambda partial: write(partial, "y"), overwrite=True) == path
    assert sorted((file.name, file.read_text()) for file in path.parent.iterdir()) == [("a-2.mp4", "x"), ("a.mp4", "y")]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (FileNotFoundError(2, "No such file", "a.pt"), 1, ["error: ", "a.pt"]),
        (ModuleNotFoundError("x", name="jsonschema.validators"), 1, ["'jsonschema'"]),
        (ModuleNotFoundError("x", name="ray"), 1, ["'ray'", ".[deploy]"]),
        (ModuleNotFoundError("x", name="matplotlib.figure"), 1, ["'matplotlib'", ".[training]"]),
    ],
)
def test_errors_are_one_line(
    error: BaseException, status: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise error
    message = capsys.readouterr().err
    assert ended.value.code == status
    assert message.count("\n") == 1
    assert [word for word in words if word not in message] == []


def test_an_old_python_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("src.command_line.MIN_PYTHON", (9, 1))
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise AssertionError("not reached")
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: Python 9.1 or later is needed; ")


def test_packages_are_looked_for_without_an_import() -> None:
    require_packages("torch", "cog")
    with pytest.raises(ModuleNotFoundError) as missing:
        require_packages("torch", "no_such_package")
    assert missing.value.name == "no_such_package"


def test_an_own_module_that_is_missing_is_a_defect() -> None:
    with pytest.raises(ModuleNotFoundError), one_line_errors():
        raise ModuleNotFoundError("x", name="src.nothing")
