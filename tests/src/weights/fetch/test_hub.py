"""The hub's own library against a small hub on the loopback: the addresses and headers of the real one."""

import hashlib
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from src.weights.ensure import ensure
from src.weights.errors import SourceError, SpaceError, WeightsError
from src.weights.fetch.hub import HubFile, download
from src.weights.manifest import MARKER, Bundle, File, Hub
from src.weights.retry import RetryPolicy
from src.weights.sources import Sources
from tests.src.weights.samples import bundle, tar, tiny_files, tree, visible, write
from tests.src.weights.server import Answer, Asked, Server

SIZE = 300_000
FILES = tiny_files(SIZE)
COMMIT = "a" * 40
REPOSITORY = "somebody/tiny"


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> "FakeHub":
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return FakeHub(server)


class FakeHub:
    """Puts repositories on the server; `revisions` are the names a file is found under."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.headers["refused"] = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
        for path, data in {
            **FILES,
            "README.md": b"not needed",
            "a_duplicate.safetensors": FILES["a.safetensors"],
        }.items():
            self.add(path, data)

    def add(self, path: str, data: bytes, revisions: tuple[str, ...] = ("main",), commit: str = COMMIT) -> None:
        digest = hashlib.sha256(data).hexdigest()
        for revision in (*revisions, commit):
            address = f"/{REPOSITORY}/resolve/{revision.replace('/', '%2F')}/{path}"
            self.server.files[address] = data
            self.server.headers[address] = {
                "X-Repo-Commit": commit,
                "X-Linked-Size": str(len(data)),
                "X-Linked-ETag": f'"{digest}"',
            }

    def gets(self) -> list[str]:
        """What was downloaded, by name."""
        return sorted({asked.path.rpartition("/")[2] for asked in self.server.asked if asked.method == "GET"})


@pytest.fixture
def run(tmp_path: Path, patience: RetryPolicy, no_pget: None) -> Callable[..., None]:
    def run(*bundles: Bundle, sources: Sources | None = None) -> None:
        sources = sources or Sources(names=("huggingface",))
        ensure(tmp_path / "w", bundles or [bundle(tar=None)], sources=sources, patience=patience)

    return run


def test_only_the_needed_files(tmp_path: Path, hub: FakeHub, run: Callable[..., None]) -> None:
    run()
    assert visible(tmp_path / "w") == ["tiny"]
    assert tree(tmp_path / "w" / "tiny") == FILES
    assert hub.gets() == sorted(Path(path).name for path in FILES)
    assert REPOSITORY in (tmp_path / "w" / "tiny" / MARKER).read_text()


def test_only_what_is_lacking(tmp_path: Path, hub: FakeHub, run: Callable[..., None]) -> None:
    write(tmp_path / "w" / "tiny" / "a.safetensors", FILES["a.safetensors"])
    write(tmp_path / "w" / "tiny" / "config.json", b'{"mine": 1}')
    run()
    assert tree(tmp_path / "w" / "tiny") == FILES | {"config.json": b'{"mine": 1}'}
    assert hub.gets() == ["b.safetensors"]


def test_a_branch_is_resolved_once(tmp_path: Path, hub: FakeHub, run: Callable[..., None]) -> None:
    """Files of two commits must not mix when the branch moves in the middle."""
    run()
    assert len([asked for asked in hub.server.asked if "/resolve/main/" in asked.path]) == 1


def test_a_revision_by_environment(tmp_path: Path, hub: FakeHub, run: Callable[..., None]) -> None:
    hub.add("config.json", b'{"v": 2}', ("v2",), "b" * 40)
    hub.add("a.safetensors", FILES["a.safetensors"], ("v2",), "b" * 40)
    hub.add("deep/b.safetensors", FILES["deep/b.safetensors"], ("v2",), "b" * 40)
    run(sources=Sources(names=("huggingface",), revisions={REPOSITORY: "v2"}))
    assert (tmp_path / "w" / "tiny" / "config.json").read_bytes() == b'{"v": 2}'


def test_a_file_with_a_revision_of_its_own(tmp_path: Path, hub: FakeHub, run: Callable[..., None]) -> None:
    hub.add("c.safetensors", FILES["a.safetensors"], ("refs/pr/1",), "c" * 40)
    file = File(path="c.safetensors", alternatives=("c.bin",), revision="refs/pr/1")
    run(bundle(files=(file, File(path="config.json"))))
    assert sorted(tree(tmp_path / "w" / "tiny")) == ["c.safetensors", "config.json"]


def test_an_alternative_and_an_optional_file(tmp_path: Path, hub: FakeHub, run: Callable[..., None]) -> None:
    hub.add("c.bin", b"\x80\x02old")
    files = (
        File(path="c.safetensors", alternatives=("c.bin",), revision="refs/pr/1"),
        File(path="lost.json", optional=True),
    )
    run(bundle(files=files))
    assert tree(tmp_path / "w" / "tiny") == {"c.bin": b"\x80\x02old"}


def test_faults_end_well(tmp_path: Path, hub: FakeHub, run: Callable[..., None]) -> None:
    def answer(asked: Asked) -> Answer:
        if asked.number < 2:
            return Answer(status=500)
        is_first = [a.path for a in hub.server.asked if a.method == "GET"].count(asked.path) == 1
        return Answer(cut=100_000 if asked.method == "GET" and is_first else None)

    hub.server.answer = answer
    run()
    assert tree(tmp_path / "w" / "tiny") == FILES


def test_wrong_bytes_are_refused(tmp_path: Path, hub: FakeHub, run: Callable[..., None]) -> None:
    spoilt = FILES["a.safetensors"][:-1] + b"?"
    hub.server.answer = lambda asked: Answer(body=spoilt if asked.path.endswith("a.safetensors") else None)
    with pytest.raises(WeightsError, match=r"a\.safetensors of somebody/tiny came with another size or hash"):
        run()
    assert visible(tmp_path / "w") == []


def test_what_has_not_begun_need_not(tmp_path: Path, patience: RetryPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that fails is no reason to fetch thirty others first."""
    begun: list[str] = []

    def fetch(_: Hub, remote: HubFile, *__: object) -> None:
        begun.append(remote.path)
        if remote.path == "0":
            raise SourceError("no")
        time.sleep(0.05)

    monkeypatch.setattr("src.weights.fetch.hub.fetch", fetch)
    remotes = [HubFile(path=str(number), commit=COMMIT, bytes=1, sha256=None) for number in range(40)]
    with pytest.raises(SourceError, match="no"):
        download(Hub(repository=REPOSITORY), remotes, tmp_path, patience)
    assert len(begun) < 20


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "closed to us|Repository Not Found|404"),
        (404, "RevisionNotFound", "no revision main"),
        (404, "EntryNotFound", r"has no config\.json"),
        (401, "", "closed to us .HTTP 401.: set HF_TOKEN"),
        (503, "", "4 times in a row"),
    ],
)
def test_a_refusal_is_one_sentence(
    tmp_path: Path, hub: FakeHub, run: Callable[..., None], status: int, code: str, words: str
) -> None:
    hub.server.headers["refused"] = {"X-Error-Code": code}
    hub.server.answer = lambda asked: Answer(status=status)
    with pytest.raises(WeightsError, match=words) as caught:
        run()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("tiny lacks config.json")


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, run: Callable[..., None]) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(WeightsError, match=r"4 times in a row"):
        run()


def test_the_true_size_decides_about_space(
    hub: FakeHub, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, (1 << 28) + 100_000))
    with pytest.raises(SpaceError):
        run()
    assert hub.gets() == []


def test_what_a_killed_run_left(tmp_path: Path, hub: FakeHub, run: Callable[..., None]) -> None:
    partial = tmp_path / "w" / ".tiny.hub.partial"
    write(partial / "source.json", f'{{"repository": "{REPOSITORY}", "commits": ["{COMMIT}"]}}'.encode())
    write(partial / "tree" / ".cache" / "huggingface" / "download" / "x.123.incomplete", bytes(1000))
    write(partial / "tree" / "a.safetensors", FILES["a.safetensors"])
    run()
    assert tree(tmp_path / "w" / "tiny") == FILES
    assert "a.safetensors" not in hub.gets()
    assert visible(tmp_path / "w") == ["tiny"]


def test_the_next_source_takes_over(tmp_path: Path, hub: FakeHub, run: Callable[..., None]) -> None:
    run(bundle(), sources=Sources(base_url=f"{hub.server.url}/nothing"))
    assert tree(tmp_path / "w" / "tiny") == FILES
    hub.server.files["/x.tar"] = tar(FILES)
    run(
        bundle("x", hub=Hub(repository="nobody/nothing")),
        sources=Sources(names=("huggingface", "multitalk"), base_url=hub.server.url),
    )
    assert tree(tmp_path / "w" / "x") == FILES
