"""The manifest, and the environment variables of the sources."""

from pathlib import PurePosixPath

import pytest

from src.weights.manifest import BUNDLES, HubRepo, read_manifest
from src.weights.sources import read_sources
from tests.src.weights.samples import bundle
from wan.configs import WAN_CONFIGS, ModelConfig


@pytest.mark.parametrize("name", BUNDLES)
def test_bundle_is_consistent(name: str) -> None:
    bundle = BUNDLES[name]
    paths = [path for file in bundle.required for path in file.paths]
    assert paths
    assert len(paths) == len(set(paths))
    for path in [bundle.folder, *paths, *(path for file in bundle.files for path in file.legacy_paths)]:
        assert not PurePosixPath(path).is_absolute()
        assert ".." not in PurePosixPath(path).parts
    assert all(file.sha256 is None or len(file.sha256) == 64 for file in bundle.files)
    assert sum(file.bytes or 0 for file in bundle.files) <= bundle.bytes
    assert bundle.tar or bundle.hub
    assert bundle.identified_by is None or bundle.identified_by in paths


def test_default_bundles_have_tars() -> None:
    default = [name for name, bundle in BUNDLES.items() if bundle.default]
    assert default == ["Wan2.1-I2V-14B-480P", "MeiGen-MultiTalk", "chinese-wav2vec2-base"]
    assert all(BUNDLES[name].tar == f"{name}.tar" for name in default)


@pytest.mark.parametrize("config", WAN_CONFIGS.values(), ids=lambda config: config.name)
def test_every_model_is_in_the_manifest_or_built_in(config: ModelConfig) -> None:
    files = config.files
    assert config.built_in or {files.base, files.audio_bundle or files.audio, files.speech} <= BUNDLES.keys()


def test_bundles_that_share_a_folder_have_different_markers() -> None:
    assert len({(bundle.folder, bundle.marker) for bundle in BUNDLES.values()}) == len(BUNDLES)


def test_estimates_add_up_to_the_bundle_size() -> None:
    base = BUNDLES["Wan2.1-I2V-14B-480P"]
    assert sum(base.estimate_bytes(file) for file in base.files) == pytest.approx(base.bytes, rel=1e-6)


def test_unknown_keys_are_errors() -> None:
    with pytest.raises(TypeError, match="md5"):
        read_manifest('{"bundles": {"a": {"description": "", "bytes": 1, "files": [{"path": "x", "md5": ""}]}}}')


def test_default_sources() -> None:
    sources = read_sources({})
    assert sources.names == ("multitalk", "huggingface")
    assert sources.tar_url(bundle()) == "https://weights.replicate.delivery/default/multitalk/weights/tiny.tar"
    assert sources.is_published_site
    assert sources.available(bundle()) == ("multitalk", "huggingface")
    assert sources.available(bundle(tar=None)) == ("huggingface",)


def test_sources_from_the_environment() -> None:
    sources = read_sources(
        {
            "MULTITALK_WEIGHTS_URL": "https://example.org/mirror/",
            "MULTITALK_WEIGHTS_SOURCES": "huggingface, multitalk",
            "MULTITALK_HUB_REVISIONS": "somebody/tiny=abc, other/thing=v1",
        }
    )
    assert sources.tar_url(bundle()) == "https://example.org/mirror/tiny.tar"
    assert not sources.is_published_site
    assert sources.names == ("huggingface", "multitalk")
    assert sources.hub_repo(bundle()) == HubRepo(repository="somebody/tiny", revision="abc")
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
def test_invalid_values_are_errors(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is '{value}'"):
        read_sources({name: value})
