"""The manifest, and what the operator may say about sources."""

import dataclasses
from pathlib import PurePosixPath

import pytest

from src.weights.manifest import BUNDLES, Bundle, Hub, read_manifest
from src.weights.sources import Sources, read_sources
from tests.src.weights.samples import bundle
from wan.configs import WAN_CONFIGS, ModelConfig

NAMES = list(BUNDLES)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_is_sound(name: str) -> None:
    bundle = BUNDLES[name]
    paths = [path for file in bundle.needed for path in file.paths]
    assert paths
    assert len(paths) == len(set(paths))
    for path in [bundle.folder, *paths, *(path for file in bundle.files for path in file.elsewhere)]:
        assert not PurePosixPath(path).is_absolute()
        assert ".." not in PurePosixPath(path).parts
    assert all(file.sha256 is None or len(file.sha256) == 64 for file in bundle.files)
    assert sum(file.bytes or 0 for file in bundle.files) <= bundle.bytes
    assert bundle.tar or bundle.hub
    assert bundle.itself is None or bundle.itself in paths


def test_what_the_server_needs() -> None:
    assert [name for name in NAMES if BUNDLES[name].default] == [
        "Wan2.1-I2V-14B-480P",
        "MeiGen-MultiTalk",
        "chinese-wav2vec2-base",
    ]
    assert all(BUNDLES[name].tar == f"{name}.tar" for name in NAMES if BUNDLES[name].default)


@pytest.mark.parametrize("config", WAN_CONFIGS.values(), ids=lambda config: config.name)
def test_every_model_is_in_the_manifest_or_comes_with_the_code(config: ModelConfig) -> None:
    files = config.files
    assert config.built_in or {files.base, files.audio_bundle or files.audio, files.speech} <= set(NAMES)


def test_markers_and_loras() -> None:
    places = {(bundle.folder, bundle.marker) for bundle in BUNDLES.values()}
    assert len(places) == len(BUNDLES), "two bundles in one folder need two markers"
    assert {name for name in NAMES if BUNDLES[name].lora} == {"FusionX", "lightx2v"}


def test_the_sum_of_estimates_is_the_size() -> None:
    base = BUNDLES["Wan2.1-I2V-14B-480P"]
    assert sum(base.about(file) for file in base.files) == pytest.approx(base.bytes, rel=1e-6)


def test_unknown_keys_are_errors() -> None:
    with pytest.raises(TypeError, match="md5"):
        read_manifest('{"bundles": {"a": {"holds": "", "bytes": 1, "files": [{"path": "x", "md5": ""}]}}}')


def test_sources_by_default() -> None:
    sources = read_sources({})
    assert sources.names == ("multitalk", "huggingface")
    assert sources.tar_url(bundle()) == "https://weights.replicate.delivery/default/multitalk/weights/tiny.tar"
    assert sources.of(bundle()) == ("multitalk", "huggingface")
    assert sources.of(bundle(tar=None)) == ("huggingface",)


def test_sources_by_environment() -> None:
    sources = read_sources(
        {
            "MULTITALK_WEIGHTS_URL": "https://example.org/mirror/",
            "MULTITALK_WEIGHTS_SOURCES": "huggingface, multitalk",
            "MULTITALK_HUB_REVISIONS": "somebody/tiny=abc, other/thing=v1",
        }
    )
    assert sources.tar_url(bundle()) == "https://example.org/mirror/tiny.tar"
    assert sources.names == ("huggingface", "multitalk")
    assert sources.hub(bundle()) == Hub(repository="somebody/tiny", revision="abc")
    assert read_sources({"MULTITALK_WEIGHTS_SOURCES": "none"}).names == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MULTITALK_WEIGHTS_SOURCES", "ftp"),
        ("MULTITALK_WEIGHTS_SOURCES", "multitalk,none"),
        ("MULTITALK_HUB_REVISIONS", "main"),
        ("MULTITALK_HUB_REVISIONS", "somebody/tiny="),
    ],
)
def test_senseless_values_are_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is '{value}'"):
        read_sources({name: value})


def test_bundles_are_values() -> None:
    assert dataclasses.replace(bundle(), name="other") != bundle()
    assert isinstance(bundle(), Bundle)
    assert Sources() == Sources()
