"""From a server to a complete folder, by pget and by HTTP, through faults."""

import dataclasses
import hashlib
import json
import os
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from src.weights.ensure import ensure
from src.weights.errors import SpaceError, WeightsError
from src.weights.manifest import MARKER, Bundle, File
from src.weights.retry import RetryPolicy
from src.weights.sources import Sources
from tests.src.weights.conftest import StandIn
from tests.src.weights.fetch.test_tar import HOSTILE
from tests.src.weights.samples import bundle, safetensors, tar, tiny_files, tree, visible, write
from tests.src.weights.server import Answer, Asked, Server

SIZE = 300_000
FILES = tiny_files(SIZE)
TAR = tar(FILES, "tiny")


@pytest.fixture(params=["pget", "http"])
def way(request: pytest.FixtureRequest) -> str:
    request.getfixturevalue("pget" if request.param == "pget" else "no_pget")
    return str(request.param)


@pytest.fixture
def run(server: Server, patience: RetryPolicy, tmp_path: Path) -> Callable[..., None]:
    """Leave bundles complete in `tmp_path/w`, from the tars of the server."""
    server.files["/tiny.tar"] = TAR

    def run(*bundles: Bundle) -> None:
        sources = Sources(names=("multitalk",), base_url=server.url)
        ensure(tmp_path / "w", bundles or [bundle()], sources=sources, patience=patience)

    return run


def assert_complete(folder: Path) -> None:
    assert visible(folder) == ["tiny"]
    assert tree(folder / "tiny") == FILES
    marker = (folder / "tiny" / MARKER).read_text()
    assert "a.safetensors\t" in marker
    assert "header of 1 tensors" in marker


@pytest.mark.parametrize("folder", ["tiny", ""])
def test_a_bundle_is_fetched_once(
    tmp_path: Path, server: Server, run: Callable[..., None], way: str, folder: str
) -> None:
    server.files["/tiny.tar"] = tar(FILES, folder)
    run()
    assert_complete(tmp_path / "w")
    before = len(server.asked)
    run()
    assert len(server.asked) == before


def test_several_at_once(tmp_path: Path, server: Server, run: Callable[..., None], way: str) -> None:
    names = ["one", "two", "three"]
    server.files |= {f"/{name}.tar": tar(tiny_files(), name) for name in names}
    meeting = threading.Barrier(len(names), timeout=5)

    def answer(asked: Asked) -> Answer:
        if asked.path not in met:
            met.add(asked.path)
            meeting.wait()  # passes only when all of them are being asked for
        return Answer()

    met: set[str] = set()
    server.answer = answer
    run(*(bundle(name) for name in names))
    assert visible(tmp_path / "w") == sorted(names)


def test_when_one_fails_the_others_stop(server: Server, run: Callable[..., None], way: str) -> None:
    server.files["/slow.tar"] = tar({"a.safetensors": safetensors(3_000_000)})
    server.answer = lambda asked: Answer(rate=100_000 if "slow" in asked.path else 0)
    start = time.monotonic()
    with pytest.raises(WeightsError, match="lost"):
        run(bundle("slow"), bundle("lost"))
    assert time.monotonic() - start < 5


def test_bundles_that_share_a_folder(tmp_path: Path, server: Server, run: Callable[..., None], way: str) -> None:
    """Whichever is first makes the folder; the other adds its files."""
    one, two = {"one.json": b"{}"}, {"two.json": b"[]"}
    server.files |= {"/one.tar": tar(one, "one"), "/two.tar": tar(two, "two")}
    run(*(bundle(name, folder="shared", files=(File(path=f"{name}.json"),)) for name in ("one", "two")))
    assert tree(tmp_path / "w" / "shared") == one | two
    assert visible(tmp_path / "w") == ["shared"]


def test_what_a_tar_lacks_is_named(tmp_path: Path, server: Server, run: Callable[..., None], way: str) -> None:
    server.files["/tiny.tar"] = tar({"config.json": b"{}", "a.safetensors": FILES["a.safetensors"][:-5]})
    with pytest.raises(WeightsError, match=r"a\.safetensors \(has .* bytes and declares .*\); deep/b\.safetensors"):
        run()
    assert visible(tmp_path / "w") == []
    server.files["/tiny.tar"] = TAR
    run()
    assert_complete(tmp_path / "w")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar(tmp_path: Path, server: Server, run: Callable[..., None], no_pget: None, name: str) -> None:
    refuse(tmp_path / "w", server, run, name)


# What pget itself unpacks, some of it outside its folder.
@pytest.mark.parametrize(
    "name",
    ["sibling with our prefix", "absolute link", "climbing link", "hard link that climbs", "empty", "compressed"],
)
def test_a_hostile_tar_by_pget(
    tmp_path: Path, server: Server, run: Callable[..., None], pget: StandIn, name: str
) -> None:
    refuse(tmp_path / "w", server, run, name)


def refuse(folder: Path, server: Server, run: Callable[..., None], name: str) -> None:
    write(folder / "outside", b"mine")
    server.files["/tiny.tar"] = HOSTILE[name]
    with pytest.raises(WeightsError):
        run()
    assert visible(folder) == ["outside"]
    assert (folder / "outside").stat().st_nlink == 1
    assert not Path("/tmp/evil-absolute").exists()


def test_without_weights_on_the_server(tmp_path: Path, server: Server, run: Callable[..., None], way: str) -> None:
    server.files.clear()
    with pytest.raises(WeightsError, match=r"^tiny lacks config.json, .*HTTP 404.*Put the files into .*MULTITALK"):
        run()
    assert visible(tmp_path / "w") == []


def hashed(path: str, digest: str) -> Bundle:
    files = tuple(dataclasses.replace(f, sha256=digest) if f.path == path else f for f in bundle().files)
    return bundle(files=files)


def test_a_known_hash_is_checked(tmp_path: Path, server: Server, run: Callable[..., None], way: str) -> None:
    right = hashlib.sha256(FILES["a.safetensors"]).hexdigest()
    spoilt = bytearray(TAR)
    spoilt[TAR.index(FILES["a.safetensors"]) + 1000] ^= 1
    server.files["/tiny.tar"] = bytes(spoilt)
    with pytest.raises(WeightsError, match="has SHA-256"):
        run(hashed("a.safetensors", right))
    assert visible(tmp_path / "w") == []
    server.files["/tiny.tar"] = TAR
    run(hashed("a.safetensors", right))
    assert_complete(tmp_path / "w")


def test_a_disk_that_is_too_small_is_known_before_the_first_byte(
    tmp_path: Path, server: Server, run: Callable[..., None], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 5 * 10**9))
    with pytest.raises(SpaceError, match=r"tiny, other needs 8\.3 GB more and .* has 5\.0 GB free"):
        run(bundle(bytes=4 * 10**9), bundle("other", bytes=4 * 10**9))
    assert server.asked == []


def test_a_tar_that_is_larger_than_the_disk(
    tmp_path: Path, server: Server, run: Callable[..., None], no_pget: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, (1 << 28) + len(TAR) - 1))
    with pytest.raises(SpaceError, match="tiny needs"):
        run()
    assert not list((tmp_path / "w").rglob("*.safetensors"))


def test_a_disk_that_fills_up_all_the_same(
    tmp_path: Path, run: Callable[..., None], no_pget: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(28, "No space left on device")

    def fail(*_: object) -> None:
        raise full

    with monkeypatch.context() as context:
        context.setattr("src.weights.fetch.tar.write", fail)
        with pytest.raises(SpaceError, match="is full; make room"):
            run()
    run()
    assert_complete(tmp_path / "w")


def test_a_half_complete_folder_is_completed(
    tmp_path: Path, server: Server, run: Callable[..., None], way: str
) -> None:
    place = tmp_path / "w" / "tiny"
    write(place / "config.json", b'{"mine": 1}')
    write(place / "a.safetensors", FILES["a.safetensors"][:1000])
    write(place / "notes.txt", b"mine too")
    run()
    assert tree(place) == FILES | {"config.json": b'{"mine": 1}', "notes.txt": b"mine too"}
    assert visible(tmp_path / "w") == ["tiny"]


def test_ranges_fetch_only_what_is_lacking(
    tmp_path: Path, server: Server, run: Callable[..., None], pget: StandIn
) -> None:
    """Even with pget there, which could only fetch everything again."""
    files = tiny_files(3_000_000)
    server.files["/tiny.tar"] = tar(files)
    run()
    (tmp_path / "w" / "tiny" / "config.json").unlink()
    server.answer = lambda asked: Answer(rate=4_000_000)
    before = server.sent
    run()
    assert tree(tmp_path / "w" / "tiny") == files
    assert len(pget.calls) == 1
    assert server.sent - before < 2_000_000


def test_a_marker_is_not_believed(tmp_path: Path, run: Callable[..., None], way: str) -> None:
    write(tmp_path / "w" / "tiny" / MARKER, b"complete")
    write(tmp_path / "w" / MARKER, b"complete")
    run()
    assert tree(tmp_path / "w" / "tiny") == FILES


def test_a_complete_folder_needs_neither_network_nor_a_writable_disk(
    tmp_path: Path, server: Server, run: Callable[..., None], no_pget: None
) -> None:
    for path, data in FILES.items():
        write(tmp_path / "w" / "tiny" / path, data)
    run()
    assert server.asked == []
    assert os.listdir(tmp_path / "w") == ["tiny"]


def test_files_where_older_packages_kept_them(
    tmp_path: Path, server: Server, run: Callable[..., None], way: str
) -> None:
    files = tuple(
        dataclasses.replace(file, elsewhere=("b.safetensors",)) if file.path.startswith("deep") else file
        for file in bundle().files
    )
    write(tmp_path / "w" / "b.safetensors", FILES["deep/b.safetensors"])
    write(tmp_path / "w" / MARKER, b"complete")
    for path in ("config.json", "a.safetensors"):
        write(tmp_path / "w" / "tiny" / path, FILES[path])
    run(bundle(files=files))
    assert tree(tmp_path / "w" / "tiny") == FILES
    assert (tmp_path / "w" / "b.safetensors").stat().st_nlink == 2
    assert server.asked == []
    write(tmp_path / "w" / "tiny" / "deep" / "b.safetensors", b"broken")  # both names of it
    run(bundle(files=files))
    assert tree(tmp_path / "w" / "tiny")["deep/b.safetensors"] == FILES["deep/b.safetensors"]
    assert len(server.asked) > 0


def test_a_broken_alternative_is_set_aside(tmp_path: Path, server: Server, run: Callable[..., None], way: str) -> None:
    """A reader that prefers it must not find it."""
    file = File(path="a.safetensors", alternatives=("a.bin",))
    server.files["/tiny.tar"] = tar({"a.bin": b"\x80\x02old"})
    write(tmp_path / "w" / "tiny" / "a.safetensors", b"broken")
    run(bundle(files=(file,)))
    assert tree(tmp_path / "w" / "tiny") == {"a.bin": b"\x80\x02old", "a.safetensors.broken": b"broken"}


def test_faults_of_the_network_end_well(
    tmp_path: Path, server: Server, run: Callable[..., None], no_pget: None
) -> None:
    faults = [Answer(status=500), Answer(cut=100_000), Answer(hang=50_000), Answer(status=429), Answer(cut=1)]
    server.answer = lambda asked: faults[asked.number] if asked.number < len(faults) else Answer()
    run()
    assert_complete(tmp_path / "w")


def test_wrong_bytes_that_were_resumed_are_begun_anew(
    tmp_path: Path, server: Server, run: Callable[..., None], no_pget: None, patience: RetryPolicy
) -> None:
    partial = tmp_path / "w" / ".tiny.http.partial"
    source = {"url": f"{server.url}/tiny.tar", "bytes": len(TAR), "version": '"1"'}
    write(partial / "source.json", json.dumps(source).encode())
    write(partial / "tree" / "tiny" / "a.safetensors", bytes(len(FILES["a.safetensors"])))
    run()
    assert_complete(tmp_path / "w")


def test_what_another_server_left_is_not_resumed(
    tmp_path: Path, server: Server, run: Callable[..., None], no_pget: None
) -> None:
    partial = tmp_path / "w" / ".tiny.http.partial"
    write(partial / "source.json", b'{"url": "elsewhere"}')
    write(partial / "tree" / "tiny" / "a.safetensors", bytes(len(FILES["a.safetensors"])))
    run()
    assert_complete(tmp_path / "w")


def test_sources_switched_off(tmp_path: Path, server: Server, patience: RetryPolicy) -> None:
    with pytest.raises(WeightsError, match="no source that is switched on has it"):
        ensure(tmp_path / "w", [bundle()], sources=Sources(names=()), patience=patience)


def test_progress_is_told(tmp_path: Path, server: Server, patience: RetryPolicy, no_pget: None) -> None:
    server.files["/tiny.tar"] = TAR
    server.answer = lambda asked: Answer(rate=600_000)
    told: list[tuple[str, int, int]] = []
    ensure(
        tmp_path / "w",
        [bundle(bytes=len(TAR))],
        sources=Sources(names=("multitalk",), base_url=server.url),
        patience=patience,
        progress=lambda *values: told.append(values),
    )
    assert {name for name, _, _ in told} == {"tiny"}
    assert 0 < told[0][1] < told[-1][1] <= told[-1][2] + 1000


def with_optional(path: str) -> Bundle:
    return bundle(files=(*bundle().files, File(path=path, optional=True)))


@pytest.mark.parametrize("state", ["absent", "empty", "half", "linked"])
def test_all_of_the_tar_arrives_whatever_was_there(
    tmp_path: Path, server: Server, run: Callable[..., None], way: str, state: str
) -> None:
    """What the manifest does not name as well, if the folder is new."""
    files = FILES | {"extra.json": b"[]", "unnamed.txt": b"x"}
    server.files["/tiny.tar"] = tar(files, "tiny")
    place = tmp_path / "w" / "tiny"
    if state == "linked":
        place.parent.mkdir()
        place.symlink_to(tmp_path / "elsewhere")
        place = tmp_path / "elsewhere"
    if state != "absent":
        place.mkdir(parents=True)
    if state in ("half", "linked"):
        write(place / "config.json", FILES["config.json"])
        del files["unnamed.txt"]
    run(with_optional("extra.json"))
    assert tree(place) == files


def test_an_optional_file_alone_is_no_reason_to_fetch(
    tmp_path: Path, server: Server, run: Callable[..., None], way: str
) -> None:
    run(with_optional("extra.json"))
    before = len(server.asked)
    run(with_optional("extra.json"))
    assert len(server.asked) == before


@pytest.mark.parametrize("left", ["http", "pget.0123abcd"])
def test_a_run_that_was_killed_at_its_very_end(
    tmp_path: Path, server: Server, run: Callable[..., None], no_pget: None, left: str
) -> None:
    """The files are in place; the marker is not written, the temporary folder not removed."""
    run()
    (tmp_path / "w" / "tiny" / MARKER).unlink()
    write(tmp_path / "w" / f".tiny.{left}.partial" / "source.json", b"{}")
    before = len(server.asked)
    run()
    assert_complete(tmp_path / "w")
    assert len(server.asked) == before
