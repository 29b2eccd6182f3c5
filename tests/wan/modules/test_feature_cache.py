"""The VAE's feature cache in host memory: the same frames, one buffer a layer, copies beside the kernels."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from tests.wan.offload.test_streaming import FakeRuntime, FakeStream
from wan import host_memory
from wan.modules.feature_cache import FeatureCache

DEVICE, HOST = torch.device("cpu", 0), torch.device("cpu")
"""Two names of the CPU, which differ as a GPU and the host do."""


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    runtime = FakeRuntime()
    monkeypatch.setattr(host_memory, "cudart", lambda: runtime)
    return runtime


@pytest.fixture
def make_cache(monkeypatch: pytest.MonkeyPatch, log: list[str], runtime: FakeRuntime) -> Callable[[], FeatureCache]:
    """Caches that copy as on a GPU, with streams that log their operations."""
    compute = FakeStream("compute", log)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: compute)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())

    def make() -> FeatureCache:
        cache = FeatureCache(DEVICE, HOST)
        cache._copies = host_memory.CopyStream(DEVICE)
        cache._copies.stream = FakeStream("copies", log)  # type: ignore[assignment]
        return cache

    return make


def frames(slice_index: int, layer: str) -> Tensor:
    shape = (1, 3, 2, 4, 5)
    x = torch.full(shape, float(slice_index)) + ord(layer)
    return x.contiguous(memory_format=torch.channels_last_3d)


def run(cache: FeatureCache, slices: list[str]) -> None:
    """Every slice uses these layers in order; each gets what it stored in its last slice."""
    stored: dict[str, Tensor] = {}
    with cache:
        for index, layers in enumerate(slices):
            for layer in layers:
                past = cache[layer]
                if layer in stored:
                    assert past is not None
                    assert torch.equal(past, stored[layer])
                    assert past.stride() == stored[layer].stride()
                else:
                    assert past is None
                stored[layer] = frames(index, layer)
                cache[layer] = frames(index, layer)


@pytest.mark.parametrize(
    "slices",
    [
        ["abc"] * 4,
        ["abc", "abxc", "abxc"],  # the decoder's first slice has fewer layers
        ["abcd", "abcd", "bcd", "d", "d", "d"],  # the encoder skips stages whose input stays the same
        ["a"] * 3,
    ],
)
def test_every_layer_gets_its_last_frames(make_cache: Callable[[], FeatureCache], slices: list[str]) -> None:
    run(make_cache(), slices)
    run(FeatureCache(DEVICE, HOST), slices)
    run(FeatureCache(HOST, HOST), slices)


def test_each_layer_has_one_page_locked_buffer(make_cache: Callable[[], FeatureCache], runtime: FakeRuntime) -> None:
    cache = make_cache()
    run(cache, ["abc"] * 5)
    assert len(runtime.locked) == 3
    del cache
    assert runtime.locked == {}


def test_copies_run_beside_the_kernels(make_cache: Callable[[], FeatureCache], log: list[str]) -> None:
    """In a later slice the frames of a layer are fetched before the kernels of the layer before it."""
    cache = make_cache()
    with cache:
        for index in range(3):
            for layer in "abc":
                cache[layer]
                log.append(f"kernels of {layer} {index}")
                cache[layer] = frames(index, layer)
    start = log.index("kernels of b 1")
    between = log[start : log.index("kernels of c 1")]
    copies = [line for line in between if line.startswith("copy")]
    assert len(copies) == 2, "one to the host and one back"
    waits = [line for line in between if line.startswith("compute waits")]
    assert len(waits) == 2, "for the layer's own frames, and for memory of the layer before"
    numbers = [int(line.split()[1]) for line in copies]
    assert all(int(line.split()[-1]) <= numbers[0] for line in waits), "never for a copy that has just been started"
    assert log[-1] == "host waits for copies"
    assert sum(line.startswith("copy") for line in log) == 3 * 3 + 2 * 3 + 1, (
        "each once up and down, and the last guess"
    )
