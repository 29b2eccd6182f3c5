"""Convert, pack, serve over HTTP, and start from the URL: the built-in model makes the same video."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import weights
from app.generator import VideoGenerator
from src.weights.sources import BASE_URL_VARIABLE, REVISIONS_VARIABLE, SOURCES_VARIABLE
from tests.predict.conftest import MODEL
from tests.predict.media_files import plain, voice
from tests.src.weights.conftest import StandIn
from tests.src.weights.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def make_video(generator: VideoGenerator, folder: Path) -> bytes:
    folder.mkdir()
    (folder / "image.png").write_bytes(plain())
    (folder / "voice.wav").write_bytes(voice())
    inputs = {"image": folder / "image.png", "first_audio": folder / "voice.wav", "num_frames": 5}
    return generator.generate(inputs | {"sampling_steps": 2, "seed": 1}, folder).path.read_bytes()


@pytest.mark.parametrize(("dtype", "named"), [("bf16", "folder"), ("fp8", "tar")])
def test_convert_pack_url_cold_start(
    trained_folder: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, named: str
) -> None:
    """`folder`: the URL of all tars with their index; `tar`: that of one tar. MULTITALK_DTYPE is not set."""
    StandIn(tmp_path / "bin", monkeypatch)
    for name in (SOURCES_VARIABLE, REVISIONS_VARIABLE, "MULTITALK_DTYPE"):
        monkeypatch.delenv(name, raising=False)
    converted, tars, folder = tmp_path / "small", tmp_path / "tars", tmp_path / "volume" / "weights"
    assert weights.main(["convert", str(trained_folder), str(converted), "--dtype", dtype, "--model", MODEL]) == 0
    assert weights.main(["pack", str(converted), str(tars)]) == 0
    server.files |= {f"/w/{path.name}": path.read_bytes() for path in tars.iterdir()}
    monkeypatch.setenv(BASE_URL_VARIABLE, f"{server.url}/w" + ("/small.tar" if named == "tar" else ""))

    environ = {"MULTITALK_MODEL": MODEL, "MODEL_PATH": str(folder)}
    generator = VideoGenerator.from_environment(environ)
    assert weights.main(["verify", str(folder), "--deep"]) == 0
    expected = VideoGenerator.from_environment(
        {"MULTITALK_MODEL": MODEL, "MODEL_PATH": str(trained_folder), "MULTITALK_DTYPE": dtype}
    )
    assert make_video(generator, tmp_path / "1") == make_video(expected, tmp_path / "2")

    server.close()  # the next start needs no network
    VideoGenerator.from_environment(environ)
    if dtype == "fp8":
        with pytest.raises(RuntimeError, match=r"MULTITALK_DTYPE is 'bf16', but .* was converted to fp8: unset"):
            VideoGenerator.from_environment(environ | {"MULTITALK_DTYPE": "bf16"})
