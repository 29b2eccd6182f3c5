"""The command line in a process of its own."""

import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from src.serving.cog.server import Server

ROOT = Path(__file__).parents[4]
PROGRAM = "import sys; from pathlib import Path; from src.serving.cog.client import main; "


def command(project: Path, *arguments: str) -> list[str]:
    program = f"{PROGRAM}sys.exit(main(folder=Path({str(project)!r})))"
    return [sys.executable, "-c", program, *arguments]


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(project, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


def test_the_output_is_saved(project: Path, image: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "out.bin"
    done = run(
        project,
        *("-i", f"image=@{image}", "-i", "steps=3.0", "-i", "strength=1", "-i", "loud=yes"),
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
        (["-i", "image=@{}", "-i", "note=fail"], ["error: note: 'fail' is not allowed"]),
        (["-i", "image=@{}", "-i", "steps=2000"], ["steps", "2000", "1000"]),
        (["-i", "image=@{}", "-i", "mode=loud"], ["mode", "loud", "add"]),
    ],
)
def test_failures_have_exit_status_1_and_a_message(
    project: Path, image: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    output = tmp_path / "out.bin"
    done = run(project, *(argument.format(image) for argument in arguments), "-o", str(output))
    assert done.returncode == 1
    assert all(word in done.stderr for word in words)
    assert "Traceback" not in done.stderr
    assert "Prediction failed: Prediction failed" not in done.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("imag=@{}", ["imag", "image", "note"]),
        ("image", ["image", "name=value"]),
        ("image=@/no/such/file", ["image", "/no/such/file"]),
        ("image=plain.png", ["image", "plain.png", "@"]),
        ("steps=2.5", ["steps", "2.5"]),
        ("steps=many", ["steps", "many"]),
        ("strength=nan", ["strength", "nan"]),
        ("loud=maybe", ["loud", "maybe"]),
        ("note=x", ["image", "required"]),
    ],
)
def test_invalid_inputs_are_refused_before_the_server_starts(
    project: Path, image: Path, argument: str, words: list[str]
) -> None:
    done = run(project, "-i", argument.format(image))
    assert done.returncode == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert "setting up" not in done.stderr


def test_help_lists_the_inputs_of_the_schema(project: Path) -> None:
    text = run(project, "--help").stdout
    for words in ("image=@FILE or URL  (required)", "steps=whole number", "mode=add|para  (default: add)", "loud=true"):
        assert words in text
    assert "1,000" in text


def test_version() -> None:
    printed = subprocess.check_output([sys.executable, "predict.py", "--version"], cwd=ROOT, text=True)
    assert printed == f"multitalk {tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}\n"


@pytest.mark.parametrize("extra", [[], ["--overwrite"]])
def test_an_output_that_exists_is_kept_unless_it_may_be_overwritten(
    project: Path, image: Path, tmp_path: Path, extra: list[str]
) -> None:
    output = tmp_path / "folder" / "out.bin"
    output.parent.mkdir()
    output.write_bytes(b"old")
    done = run(project, "-i", f"image=@{image}", "-o", str(output), *extra)
    assert (done.returncode == 0) == bool(extra)
    assert output.read_bytes() == (b"cba" if extra else b"old")
    assert ("out.bin exists" in done.stderr) == (not extra)
    assert [path.name for path in output.parent.iterdir()] == ["out.bin"]


def test_a_running_server_is_used(project: Path, image: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.bin"
    with Server(project) as server:
        arguments = ("--url", server.url, "-i", f"image=@{image}", "-o", str(output))
        done = run(project, *arguments, "-i", "steps=3")
        refused = run(project, *arguments, "--overwrite", "-i", "steps=2000")
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == b"cba"
    assert "step 2" in done.stderr
    assert refused.returncode == 1
    assert "steps" in refused.stderr
    assert "1000" in refused.stderr
    gone = run(project, *arguments, "--overwrite")
    assert gone.returncode == 1
    assert gone.stderr.startswith(f"error: no server answers at {server.url}")


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999"])
def test_a_url_that_is_none_is_refused(project: Path, url: str) -> None:
    done = run(project, "--url", url)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the server's URL is ")
    assert done.stderr.count("\n") == 1


def test_an_interrupted_client_cancels_on_the_running_server(project: Path, image: Path, tmp_path: Path) -> None:
    with Server(project) as server:
        arguments = ("--url", server.url, "-i", f"image=@{image}", "-i", "steps=1000", "-o", str(tmp_path / "x"))
        client = subprocess.Popen(command(project, *arguments), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while not any(line.startswith("step 3") or "step 3" in line for line in server.logs):
            assert client.poll() is None
            time.sleep(0.05)
        client.send_signal(signal.SIGINT)
        _, rest = client.communicate(timeout=240)
        assert client.returncode == 130
        assert rest.splitlines()[-1] == "cancelled"
        server.wait_ready(60)
    assert not any("step 999" in line for line in server.logs)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_server_too(project: Path, image: Path, name: str) -> None:
    client = subprocess.Popen(
        command(project, "-i", f"image=@{image}", "-i", "steps=1000"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert client.stderr is not None
    for line in client.stderr:
        if line.startswith("step 3"):
            break
    client.send_signal(getattr(signal, name))
    _, rest = client.communicate(timeout=240)
    assert client.returncode in {130, 143}
    assert "step 999" not in rest
    assert not [entry for entry in Path("/proc").glob("[0-9]*/cwd") if working_directory(entry) == project]


def working_directory(entry: Path) -> Path | None:
    try:
        return entry.readlink()
    except OSError:  # the process has just ended, or is not ours to look at
        return None
