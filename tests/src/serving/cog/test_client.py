"""The command line, in its own process, as a user runs it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
PROGRAM = "import sys; from pathlib import Path; from src.serving.cog.client import main; "


def command(project: Path, *arguments: str) -> list[str]:
    program = f"{PROGRAM}sys.exit(main(folder=Path({str(project)!r})))"
    return [sys.executable, "-c", program, *arguments]


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(project, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_saves_the_output(project: Path, picture: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "out.bin"
    done = run(
        project,
        *("-i", f"picture=@{picture}", "-i", "steps=3.0", "-i", "strength=1", "-i", "loud=yes"),
        *("-i", "note=a=b", "-o", str(output)),
    )
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == b"cba"
    assert done.stdout.strip() == str(output)
    assert "got 3 1.0 True add 'a=b'" in done.stderr
    assert "step 2" in done.stderr
    assert '"size": 3' in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-i", "picture=@{}", "-i", "note=fail"], ["ValueError: note: 'fail' is not allowed"]),
        (["-i", "picture=@{}", "-i", "steps=2000"], ["steps", "2000", "1000"]),
        (["-i", "picture=@{}", "-i", "mode=loud"], ["mode", "loud", "add"]),
    ],
)
def test_failures_exit_with_the_servers_message(
    project: Path, picture: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    output = tmp_path / "out.bin"
    done = run(project, *(argument.format(picture) for argument in arguments), "-o", str(output))
    assert done.returncode == 1
    assert all(word in done.stderr for word in words)
    assert "Traceback" not in done.stderr
    assert "Prediction failed: Prediction failed" not in done.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("pictur=@{}", ["pictur", "picture", "note"]),
        ("picture", ["picture", "name=value"]),
        ("picture=@/no/such/file", ["picture", "/no/such/file"]),
        ("picture=plain.png", ["picture", "plain.png", "@"]),
        ("steps=2.5", ["steps", "2.5", "whole number"]),
        ("steps=many", ["steps", "many", "whole number"]),
        ("strength=nan", ["strength", "nan"]),
        ("loud=maybe", ["loud", "maybe"]),
        ("note=x", ["picture", "required"]),
    ],
)
def test_mistakes_are_found_before_the_server_starts(
    project: Path, picture: Path, argument: str, words: list[str]
) -> None:
    started = time.monotonic()
    done = run(project, "-i", argument.format(picture))
    assert done.returncode == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert "setting up" not in done.stderr
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_the_server_too(project: Path, picture: Path, name: str) -> None:
    client = subprocess.Popen(
        command(project, "-i", f"picture=@{picture}", "-i", "steps=1000"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert client.stderr is not None
    for line in client.stderr:
        if line.startswith("step 3"):
            break
    client.send_signal(getattr(signal, name))
    started = time.monotonic()
    _, rest = client.communicate(timeout=20)
    assert client.returncode in {130, 143}
    assert time.monotonic() - started < 5, rest
    assert "step 999" not in rest
    assert not [entry for entry in Path("/proc").glob("[0-9]*/cwd") if folder_of(entry) == project]


def folder_of(entry: Path) -> Path | None:
    try:
        return entry.readlink()
    except OSError:  # the process has just ended, or is not ours to look at
        return None
