"""From a source to a complete folder, with every download method and every prior state of the folder."""

import hashlib
import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from src.weights.ensure import ensure
from src.weights.errors import SpaceError, WeightsError
from src.weights.manifest import MARKER, Bundle, File
from src.weights.sources import Sources
from tests.src.weights.conftest import POLICY, Host, StandIn
from tests.src.weights.samples import bundle, list_dir, tar, tiny_files, tree, write
from tests.src.weights.server import Answer, FakeHub, Received, Server

FILES = tiny_files(300_000)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def served(request: pytest.FixtureRequest) -> None:
    if "host" in request.fixturenames:
        request.getfixturevalue("host").serve(FILES)


def with_files(*files: File) -> Bundle:
    return bundle(files=(*bundle().files, *files))


def test_bundle_is_fetched_once(host: Host) -> None:
    host.ensure()
    assert list_dir(host.folder) == ["tiny"]
    assert tree(host.folder / "tiny") == FILES
    assert "a.safetensors\t300" in (host.folder / "tiny" / MARKER).read_text()
    num_requests = len(host.server.requests)
    host.ensure()
    assert len(host.server.requests) == num_requests


def test_complete_folder_without_marker_is_not_touched(host: Host) -> None:
    for path, data in FILES.items():
        write(host.folder / "tiny" / path, data)
    host.ensure()
    assert host.server.requests == []
    assert os.listdir(host.folder) == ["tiny"]


def test_marker_is_not_believed(host: Host) -> None:
    write(host.folder / "tiny" / MARKER, b"complete")
    write(host.folder / MARKER, b"complete")
    host.ensure()
    assert tree(host.folder / "tiny") == FILES


def test_bundles_are_fetched_concurrently(host: Host) -> None:
    names = ["one", "two", "three"]
    for name in names:
        host.serve(tiny_files(), name)
    barrier = threading.Barrier(len(names), timeout=60)
    seen: set[str] = set()

    def answer(request: Received) -> Answer:
        name = next(name for name in names if name in request.path)
        if name not in seen:
            seen.add(name)
            barrier.wait()  # returns when all of them were requested
        return Answer()

    host.server.answer = answer
    host.ensure(*(bundle(name) for name in names))
    assert list_dir(host.folder) == sorted(names)


def test_bundles_that_share_a_folder(host: Host) -> None:
    host.serve({"one.json": b"{}"}, "one")
    host.serve({"two.json": b"[]"}, "two")
    host.ensure(*(bundle(name, folder="shared", files=(File(path=f"{name}.json"),)) for name in ("one", "two")))
    assert tree(host.folder / "shared") == {"one.json": b"{}", "two.json": b"[]"}
    assert list_dir(host.folder) == ["shared"]


def test_truncated_file_is_named_and_not_installed(host: Host) -> None:
    host.serve({**FILES, "a.safetensors": FILES["a.safetensors"][:-5]})
    with pytest.raises(WeightsError, match=r"a\.safetensors \(has .* bytes and declares .*\).*Put the files into"):
        host.ensure()
    assert list_dir(host.folder) == []
    host.serve(FILES)
    host.ensure()
    assert tree(host.folder / "tiny") == FILES


def test_known_hash_is_checked(host: Host) -> None:
    digest = hashlib.sha256(FILES["a.safetensors"]).hexdigest()
    hashed = bundle(files=(File(path="config.json"), File(path="a.safetensors", sha256=digest)))
    host.serve({**FILES, "a.safetensors": FILES["a.safetensors"][:-1] + b"?"})
    with pytest.raises(WeightsError, match=f"has SHA-256 .*, not {digest}"):
        host.ensure(hashed)
    assert list_dir(host.folder) == []
    host.serve(FILES)
    host.ensure(hashed)


def test_missing_on_the_server(host: Host) -> None:
    host.server.files.clear()
    with pytest.raises(WeightsError, match=r"^tiny lacks config.json, .*404.*Put the files into .*MULTITALK") as caught:
        host.ensure()
    assert "\n" not in str(caught.value)
    assert list_dir(host.folder) == []


@pytest.mark.parametrize("is_link", [False, True])
def test_incomplete_folder_is_completed(host: Host, is_link: bool) -> None:
    """The user's own files stay, broken ones are replaced, files that the manifest does not name are left out."""
    host.serve({**FILES, "extra.json": b"[]", "unknown.txt": b"x"})
    root = host.folder / "tiny"
    if is_link:
        root.parent.mkdir()
        (host.folder.parent / "elsewhere").mkdir()
        root.symlink_to(host.folder.parent / "elsewhere")
    own = {"config.json": b'{"mine": 1}', "notes.txt": b"mine too"}
    for path, data in {**own, "a.safetensors": FILES["a.safetensors"][:1000]}.items():
        write(root / path, data)
    host.ensure(with_files(File(path="extra.json", optional=True)))
    assert tree(root) == {**FILES, **own, "extra.json": b"[]"}
    assert list_dir(host.folder) == ["tiny"]


def test_missing_optional_file_is_not_fetched_alone(host: Host) -> None:
    optional = with_files(File(path="extra.json", optional=True))
    host.ensure(optional)
    num_requests = len(host.server.requests)
    host.ensure(optional)
    assert len(host.server.requests) == num_requests


def test_broken_alternative_is_quarantined(host: Host) -> None:
    """A reader that prefers it must not find it."""
    host.serve({"a.bin": b"\x80\x02old"})
    write(host.folder / "tiny" / "a.safetensors", b"broken")
    host.ensure(bundle(files=(File(path="a.safetensors", alternatives=("a.bin",)),)))
    assert tree(host.folder / "tiny") == {"a.bin": b"\x80\x02old", "a.safetensors.broken": b"broken"}


def test_legacy_path_is_linked_and_a_broken_link_replaced(host: Host) -> None:
    files = (*bundle().files[:2], File(path="deep/b.safetensors", legacy_paths=("b.safetensors",)))
    write(host.folder / "b.safetensors", FILES["deep/b.safetensors"])
    for path in ("config.json", "a.safetensors"):
        write(host.folder / "tiny" / path, FILES[path])
    host.ensure(bundle(files=files))
    assert host.server.requests == []
    assert (host.folder / "tiny/deep/b.safetensors").samefile(host.folder / "b.safetensors")
    write(host.folder / "b.safetensors", b"broken")
    host.ensure(bundle(files=files))
    assert tree(host.folder / "tiny") == FILES


def test_temporary_folders_of_killed_runs_are_removed(host: Host) -> None:
    for name in (".tiny.partial", ".tiny.http.partial", ".tiny.pget.0123.partial", ".tiny.hub.partial"):
        write(host.folder / name / "tree" / "junk.json", b"{}")
    host.ensure()
    assert list_dir(host.folder) == ["tiny"]
    assert tree(host.folder / "tiny") == FILES


def test_killed_before_the_marker_was_written(host: Host) -> None:
    host.ensure()
    (host.folder / "tiny" / MARKER).unlink()
    write(host.folder / ".tiny.hub.partial" / "tree" / "config.json", b"{}")
    num_requests = len(host.server.requests)
    host.ensure()
    assert (host.folder / "tiny" / MARKER).is_file()
    assert list_dir(host.folder) == ["tiny"]
    assert len(host.server.requests) == num_requests


def test_space_is_checked_before_the_download(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 5 * 10**9))
    with pytest.raises(SpaceError, match=r"tiny, other needs \S+ GB more and .* has 5\.0 GB free"):
        host.ensure(bundle(bytes=4 * 10**9), bundle("other", bytes=4 * 10**9))
    assert host.server.requests == []


def test_a_tar_that_is_unpacked_here_needs_twice_the_space(
    server: Server, tmp_path: Path, pget: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 15 * 10**8))
    sources = Sources(names=("multitalk",), base_url=server.url)
    with pytest.raises(SpaceError, match=r"needs 2\.3 GB more"):
        ensure(tmp_path / "w", [bundle(bytes=10**9)], sources=sources)
    server.files["/tiny.tar"] = tar(FILES)
    monkeypatch.setattr("src.weights.sources.BASE_URL", server.url)
    ensure(tmp_path / "w", [bundle(bytes=10**9)], sources=sources)


def test_disk_full_during_the_download(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("src.weights.fetch.methods.install", fail)
        with pytest.raises(SpaceError, match="is full; free some space"):
            host.ensure()
    host.ensure()
    assert tree(host.folder / "tiny") == FILES


def test_failure_cancels_the_other_downloads(server: Server, tmp_path: Path, pget: StandIn) -> None:
    """The server never sends the rest of the held tar, so this ends only by cancellation."""
    server.files["/held.tar"] = tar(FILES)
    server.answer = lambda request: Answer(hold=100_000)
    sources = Sources(names=("multitalk",), base_url=server.url)
    with pytest.raises(WeightsError, match=r"^missing lacks"):
        ensure(tmp_path / "w", [bundle("held"), bundle("missing")], sources=sources, policy=POLICY)
    assert list_dir(tmp_path / "w") == []


def test_progress_is_reported_during_the_download(server: Server, tmp_path: Path, pget: StandIn) -> None:
    """The server sends the second half only after a report."""
    server.files["/tiny.tar"] = tar(FILES)
    server.answer = lambda request: Answer(hold=300_000)
    reports: list[tuple[str, int, int]] = []

    def progress(name: str, done: int, total: int) -> None:
        reports.append((name, done, total))
        server.released.set()

    sources = Sources(names=("multitalk",), base_url=server.url)
    ensure(tmp_path / "w", [bundle()], sources=sources, policy=POLICY, progress=progress)
    assert reports[0][0] == "tiny"
    assert reports[0][1] > 0
    assert reports[0][2] == 40_000


def test_no_source_enabled(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no enabled source offers it"):
        ensure(tmp_path / "w", [bundle()], sources=Sources(names=()))


def test_next_source_is_tried(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pget: None, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    FakeHub(server, "somebody/tiny").add(FILES)
    ensure(tmp_path / "w", [bundle()], sources=Sources(), policy=POLICY)
    assert tree(tmp_path / "w" / "tiny") == FILES
    assert "needs pget, which is not on PATH (install it from https://github.com/replicate/pget" in caplog.text
    StandIn(tmp_path / "bin", monkeypatch)
    server.files["/other.tar"] = tar(FILES)
    sources = Sources(names=("huggingface", "multitalk"), base_url=server.url)
    ensure(tmp_path / "w", [bundle("other")], sources=sources, policy=POLICY)
    assert tree(tmp_path / "w" / "other") == FILES
