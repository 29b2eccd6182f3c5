"""The hub's client against a local server with the real hub's API."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from src.weights.ensure import ensure
from src.weights.errors import CancelledError, SpaceError, WeightsError
from src.weights.fetch.hub import HubFile, download
from src.weights.manifest import MARKER, Bundle, File, HubRepo
from src.weights.retry import RetryPolicy
from src.weights.sources import Sources
from tests.src.weights.conftest import POLICY
from tests.src.weights.samples import bundle, list_dir, tiny_files, tree, write
from tests.src.weights.server import COMMIT, Answer, FakeHub, Received, Server

FILES = tiny_files(300_000)
REPOSITORY = "somebody/tiny"


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    hub = FakeHub(server, REPOSITORY)
    hub.add({**FILES, "README.md": b"not needed", "a_duplicate.safetensors": FILES["a.safetensors"]})
    return hub


def run(tmp_path: Path, *bundles: Bundle, revisions: dict[str, str] | None = None) -> Path:
    sources = Sources(names=("huggingface",), revisions=revisions or {})
    ensure(tmp_path / "w", bundles or [bundle()], sources=sources, policy=POLICY)
    return tmp_path / "w" / "tiny"


def test_only_required_files_are_downloaded(tmp_path: Path, hub: FakeHub) -> None:
    root = run(tmp_path)
    assert sorted(path.name for path in root.iterdir()) == ["a.safetensors", "config.json", "deep", MARKER]
    assert hub.server.downloads() == sorted(Path(path).name for path in FILES)
    assert REPOSITORY in (root / MARKER).read_text()


def test_only_missing_files_are_downloaded(tmp_path: Path, hub: FakeHub) -> None:
    write(tmp_path / "w" / "tiny" / "a.safetensors", FILES["a.safetensors"])
    write(tmp_path / "w" / "tiny" / "config.json", b'{"mine": 1}')
    assert tree(run(tmp_path)) == {**FILES, "config.json": b'{"mine": 1}'}
    assert hub.server.downloads() == ["b.safetensors"]


def test_complete_files_of_a_killed_run_are_kept(tmp_path: Path, hub: FakeHub) -> None:
    partial = tmp_path / "w" / ".tiny.hub.partial" / "tree"
    write(partial / ".cache" / "huggingface" / "download" / "x.123.incomplete", bytes(1000))
    write(partial / "a.safetensors", FILES["a.safetensors"])
    assert tree(run(tmp_path)) == FILES
    assert hub.server.downloads() == ["b.safetensors", "config.json"]
    assert list_dir(tmp_path / "w") == ["tiny"]


def test_wrong_files_of_a_killed_run_are_downloaded_again(tmp_path: Path, hub: FakeHub) -> None:
    write(tmp_path / "w" / ".tiny.hub.partial" / "tree" / "a.safetensors", bytes(len(FILES["a.safetensors"])))
    assert tree(run(tmp_path)) == FILES


def test_a_branch_is_resolved_once(tmp_path: Path, hub: FakeHub) -> None:
    """Files of two commits do not mix when the branch moves during the download."""
    run(tmp_path)
    assert len([request for request in hub.server.requests if "main" in request.path]) == 1
    assert all("main" not in request.path or "/api/" in request.path for request in hub.server.requests)


def test_revision_of_the_operator_and_of_a_file(tmp_path: Path, hub: FakeHub) -> None:
    hub.add({"config.json": b'{"v": 2}', "c.bin": b"\x80\x02old"}, "v2", "b" * 40)
    hub.add({"c.safetensors": FILES["a.safetensors"]}, "refs/pr/1", "c" * 40)
    file = File(path="c.safetensors", alternatives=("c.bin",), revision="refs/pr/1")
    root = run(tmp_path, bundle(files=(file, File(path="config.json"))), revisions={REPOSITORY: "v2"})
    assert tree(root) == {"c.safetensors": FILES["a.safetensors"], "config.json": b'{"v": 2}'}


def test_alternative_and_missing_optional_file(tmp_path: Path, hub: FakeHub) -> None:
    hub.server.error_headers = {"X-Error-Code": "RevisionNotFound"}
    hub.add({"c.bin": b"\x80\x02old"})
    file = File(path="c.safetensors", alternatives=("c.bin",), revision="refs/pr/1")
    root = run(tmp_path, bundle(files=(file, File(path="missing.json", optional=True))))
    assert tree(root) == {"c.bin": b"\x80\x02old"}


def test_transient_faults_are_retried(tmp_path: Path, hub: FakeHub) -> None:
    def answer(request: Received) -> Answer:
        gets = [r.path for r in hub.server.requests if r.method == "GET"]
        if "/api/" in request.path:
            return Answer(status=503 if "/revision/" in request.path and gets.count(request.path) < 3 else 0)
        is_first = request.method == "GET" and gets.count(request.path) == 1
        return Answer(cut=100_000 if is_first else None)

    hub.server.answer = answer
    assert tree(run(tmp_path)) == FILES


def test_wrong_bytes_are_rejected(tmp_path: Path, hub: FakeHub) -> None:
    wrong = FILES["a.safetensors"][:-1] + b"?"
    hub.server.answer = lambda request: Answer(body=wrong if request.path.endswith("/a.safetensors") else None)
    with pytest.raises(WeightsError, match=r"somebody/tiny sent a\.safetensors with another size or hash"):
        run(tmp_path)
    assert list_dir(tmp_path / "w") == []


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "404"),
        (404, "RevisionNotFound", "no revision main"),
        (401, "", "denied .HTTP 401.: set HF_TOKEN"),
        (503, "", "503.*after 4 attempts"),
    ],
)
def test_rejection_is_one_sentence(tmp_path: Path, hub: FakeHub, status: int, code: str, words: str) -> None:
    hub.server.error_headers = {"X-Error-Code": code}
    hub.server.answer = lambda request: Answer(status=status)
    with pytest.raises(WeightsError, match=words) as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("tiny lacks config.json")


def test_file_that_the_hub_does_not_have(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(WeightsError, match=r"somebody/tiny at main has no c\.json or d\.json"):
        run(tmp_path, bundle(files=(File(path="c.json", alternatives=("d.json",)),)))


def test_unreachable_or_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(WeightsError, match="after 4 attempts"):
        run(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids"):
        run(tmp_path)


def test_listed_sizes_are_compared_with_the_free_space(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, (1 << 28) + 100_000))
    with pytest.raises(SpaceError):
        run(tmp_path)
    assert hub.server.downloads() == []


def test_cancellation_during_a_download(tmp_path: Path, hub: FakeHub) -> None:
    policy = RetryPolicy(attempts=1)

    def answer(request: Received) -> Answer:
        if request.method == "GET" and request.path.endswith(".safetensors"):
            policy.cancelled.set()
        return Answer()

    hub.server.answer = answer
    file = HubFile(path="a.safetensors", commit=COMMIT, bytes=len(FILES["a.safetensors"]), sha256=None)
    with pytest.raises(CancelledError):
        download(HubRepo(repository=REPOSITORY), [file], tmp_path, policy)
    assert not (tmp_path / "a.safetensors").exists()
