"""LoRAs: key styles, exact merging, unloading bit for bit, and quantized layers."""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wan.checkpoint import lora_file
from wan.checkpoint.lora import Lora, LoraError, LoraManager
from wan.configs import WAN_CONFIGS
from wan.modules.quantized import QuantizedLinear, quantize_linears, quantize_rows
from wan.modules.transformer import MultiTalkTransformer
from wan.offload.streaming import StreamedBlocks

CONFIG = replace(WAN_CONFIGS["multitalk-puppet"].transformer, num_layers=2)
LAYER, RANK = "blocks.1.cross_attn.k_img", 4


@pytest.fixture
def model() -> MultiTalkTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MultiTalkTransformer(CONFIG).bfloat16().eval().requires_grad_(False)


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(down: str, up: str, layer: str = LAYER, seed: int = 0) -> dict[str, Tensor]:
    return {
        f"{layer}.{down}": random_tensor(RANK, 192, seed=seed),
        f"{layer}.{up}": random_tensor(192, RANK, seed=seed + 1),
    }


def bits(model: MultiTalkTransformer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, Tensor], model: MultiTalkTransformer) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def renamed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


PLAIN = product("lora_down.weight", "lora_up.weight")
STYLES = {
    "none": PLAIN,
    "diffusion_model": renamed(PLAIN, "diffusion_model."),
    "diffusion.model": renamed(PLAIN, "diffusion.model."),
    "transformer": renamed(PLAIN, "transformer."),
    "pipe.dit": renamed(product("lora_A.default.weight", "lora_B.default.weight"), "pipe.dit."),
    "A and B": renamed(product("lora_A.weight", "lora_B.weight"), "diffusion_model."),
    "underscored": renamed(product("lora_down.weight", "lora_up.weight", LAYER.replace(".", "_")), "lora_unet__"),
}


@pytest.mark.parametrize("style", STYLES)
def test_key_styles_are_equivalent(model: MultiTalkTransformer, style: str) -> None:
    before = bits(model)
    LoraManager().set_active(model, [Lora(weights=STYLES[style], strength=0.7)])
    name = f"{LAYER}.weight"
    up, down = PLAIN[f"{LAYER}.lora_up.weight"], PLAIN[f"{LAYER}.lora_down.weight"]
    assert changed(before, model) == {name}
    assert torch.equal(model.get_parameter(name), (before[name].float() + 0.7 * (up @ down)).bfloat16())


def test_alpha_over_rank_scales_only_the_product(model: MultiTalkTransformer) -> None:
    before = bits(model)
    tensors = {**PLAIN, f"{LAYER}.alpha": torch.tensor(2.0), f"{LAYER}.diff_b": random_tensor(192, seed=5)}
    LoraManager().set_active(model, [Lora(weights=tensors, strength=0.5)])
    up, down = PLAIN[f"{LAYER}.lora_up.weight"], PLAIN[f"{LAYER}.lora_down.weight"]
    expected = (before[f"{LAYER}.weight"].float() + 0.5 * 2 / RANK * (up @ down)).bfloat16()
    assert torch.equal(model.get_parameter(f"{LAYER}.weight"), expected)
    bias = (before[f"{LAYER}.bias"].float() + 0.5 * tensors[f"{LAYER}.diff_b"]).bfloat16()
    assert torch.equal(model.get_parameter(f"{LAYER}.bias"), bias)


@pytest.mark.parametrize("key", ["blocks.0.diff_m", "blocks.0.modulation.diff_m"])
def test_full_deltas_of_norms_and_modulations(model: MultiTalkTransformer, key: str) -> None:
    before = bits(model)
    tensors = {
        key: random_tensor(1, 6, 192),
        "blocks.0.norm3.diff": random_tensor(192),
        "head.diff_m": random_tensor(1, 2, 192),
    }
    LoraManager().set_active(model, [Lora(weights=renamed(tensors, "diffusion_model."))])
    assert changed(before, model) == {"blocks.0.modulation", "blocks.0.norm3.weight", "head.modulation"}


def test_low_rank_delta_of_a_convolution(model: MultiTalkTransformer) -> None:
    shape = model.patch_embedding.weight.shape
    before = bits(model)
    tensors = {
        "patch_embedding.lora_down.weight": random_tensor(RANK, *shape[1:]),
        "patch_embedding.lora_up.weight": random_tensor(192, RANK, 1, 1, 1),
    }
    LoraManager().set_active(model, [Lora(weights=tensors)])
    assert changed(before, model) == {"patch_embedding.weight"}


def test_several_loras_are_summed_before_rounding(model: MultiTalkTransformer) -> None:
    before = bits(model)[f"{LAYER}.weight"].float()
    other = product("lora_A.weight", "lora_B.weight", seed=9)
    LoraManager().set_active(model, [Lora(weights=PLAIN, strength=0.3), Lora(weights=other, strength=-1.2)])
    for factor, tensors in ((0.3, PLAIN), (-1.2, other)):
        down, up = tensors.values()
        before += factor * (up @ down)
    assert torch.equal(model.get_parameter(f"{LAYER}.weight"), before.bfloat16())


def test_unload_restores_weights_bit_for_bit(model: MultiTalkTransformer, caplog: pytest.LogCaptureFixture) -> None:
    before, loras = bits(model), LoraManager()
    with caplog.at_level(logging.INFO):
        loras.set_active(model, [Lora(weights=PLAIN, strength=1e4)])
    assert f"{2 * 192 * 192} bytes of originals" in caplog.text
    other = Lora(weights=product("lora_A.weight", "lora_B.weight", "blocks.0.self_attn.v"))
    loras.set_active(model, [other])
    assert changed(before, model) == {"blocks.0.self_attn.v.weight"}
    loras.set_active(model, [])
    assert changed(before, model) == set()
    assert loras.originals == {}


def test_only_changed_files_are_merged_again(
    model: MultiTalkTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By content: a replaced file takes effect, also with its old size and time; a copy elsewhere is the same."""
    path = tmp_path / "x.safetensors"
    reads: list[Lora] = []

    def read(lora: Lora) -> tuple[Mapping[str, Tensor], lora_file.AlphaConfig]:
        reads.append(lora)
        return lora_file.read_lora(lora)

    monkeypatch.setattr("wan.checkpoint.lora_deltas.read_lora", read)
    loras, requested = LoraManager(), [Lora(weights=path, name="x")]

    def merge(*, expect_read: bool) -> Tensor:
        reads.clear()
        loras.set_active(model, requested)
        assert bool(reads) == expect_read
        return model.get_parameter(f"{LAYER}.weight").clone()

    save_file(PLAIN, path)
    first, stat = merge(expect_read=True), path.stat()
    assert torch.equal(merge(expect_read=False), first)
    save_file(renamed(product("lora_down.weight", "lora_up.weight", seed=9), ""), path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert not torch.equal(merge(expect_read=True), first)
    path.unlink()
    with pytest.raises(LoraError, match="x cannot be read: No such file"):
        loras.set_active(model, requested)
    assert loras.active == tuple(requested), "an invalid file changes nothing"
    save_file(PLAIN, path)
    assert torch.equal(merge(expect_read=True), first)
    requested = [Lora(weights=path.rename(tmp_path / "y"), name="x")]
    assert torch.equal(merge(expect_read=False), first)
    path.write_bytes(b"")
    with pytest.raises(LoraError, match="y cannot be read"):
        loras.set_active(model, [Lora(weights=path, name="y")])


def test_the_same_content_twice_is_said(model: MultiTalkTransformer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file(PLAIN, tmp_path / name)
    loras, before = LoraManager(), bits(model)
    loras.set_active(model, [Lora(weights=tmp_path / name, strength=s) for name, s in (("a", 1), ("b", -1))])
    assert loras.warnings == ("a and b have the same content: their strengths add up",)
    assert changed(before, model) == set()


def test_unmatched_keys_are_logged(model: MultiTalkTransformer, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {
        **PLAIN,
        "blocks.77.ffn.0.diff": random_tensor(3),
        "lora_unet__blocks_0_self.attn_q.diff": random_tensor(3),
    }
    loras = LoraManager()
    loras.set_active(model, [Lora(weights=tensors)])
    assert "2 unmatched keys" in caplog.text
    (warning,) = loras.warnings
    assert "blocks.77.ffn.0.diff" in warning
    assert "blocks.77.ffn.0.diff, lora_unet__blocks_0_self.attn_q.diff" in caplog.text
    loras.set_active(model, [])
    assert loras.warnings == ()


def without(tensors: dict[str, Tensor], suffix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(suffix)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"unet.down.diff": torch.ones(1)}, r"none of its 1 keys .*unet\.down\.diff"),
        ({}, "none of its 0 keys"),
        (without(PLAIN, "lora_up.weight"), rf"{LAYER} has an incomplete product: down"),
        ({f"{LAYER}.alpha": torch.ones(())}, "an incomplete product: alpha"),
        ({f"{LAYER}.diff": random_tensor(192, 191)}, rf"{LAYER}\.weight is \[192, 192\], not \[192, 191\]"),
        ({**PLAIN, f"{LAYER}.lora_up.weight": random_tensor(192, 5)}, r"not \[192, 5\] @ \[4, 192\]"),
        ({**PLAIN, f"{LAYER}.alpha": torch.ones(2)}, r"alpha \[2\]"),
        ({**PLAIN, f"{LAYER}.lora_down.weight": torch.zeros(0, 192)}, r"down \[0, 192\]"),
        ({**PLAIN, f"{LAYER}.lora_up.weight": torch.ones(())}, r"up \[\]"),
        ({**PLAIN, f"{LAYER}.lora_up.weight": torch.ones(192, RANK, dtype=torch.int8)}, "up"),
        ({**PLAIN, f"{LAYER}.lora_up.weight": torch.full((192, RANK), torch.nan)}, "has NaN or Inf in up"),
        ({**PLAIN, f"{LAYER}.alpha": torch.tensor(torch.inf)}, "has NaN or Inf in alpha"),
        ({**PLAIN, f"{LAYER}.diff_b": torch.full((192,), -torch.inf)}, "has NaN or Inf in bias"),
        ({key: 1e30 * tensor for key, tensor in PLAIN.items()}, "lower strengths are needed"),
        (
            {**PLAIN, f"{LAYER}.lora_up.weight": torch.zeros(192, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)},
            r"up \[192, 2\] in float4_e2m1fn_x2",
        ),
        ({**PLAIN, f"{LAYER}.lora_up.scale_weight": torch.ones(1)}, "in fp8 with scales"),
        ({**PLAIN, f"transformer.{LAYER}.lora_up.weight": torch.ones(192, RANK)}, "duplicates another key"),
    ],
)
def test_mismatched_lora_changes_nothing(model: MultiTalkTransformer, tensors: dict[str, Tensor], words: str) -> None:
    before = bits(model)
    with pytest.raises(LoraError, match=words):
        LoraManager().set_active(model, [Lora(weights=PLAIN), Lora(weights=tensors)])
    assert changed(before, model) == set()


def quantize_layer(model: MultiTalkTransformer, dtype: torch.dtype) -> QuantizedLinear:
    """Replace LAYER by a quantized layer with its weights and no bias."""
    weight = model.get_parameter(f"{LAYER}.weight").clone()
    quantize_linears(model, {LAYER: dtype}, fp8_matmul=False)
    layer = model.get_submodule(LAYER)
    assert isinstance(layer, QuantizedLinear)
    layer.data, layer.scale = quantize_rows(weight, dtype)
    layer.bias = torch.nn.Parameter(torch.zeros(192, dtype=torch.bfloat16), requires_grad=False)
    return layer


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantized_layer_computes_the_delta_unrounded(model: MultiTalkTransformer, dtype: torch.dtype) -> None:
    layer = quantize_layer(model, dtype)
    loras, x = LoraManager(), random_tensor(3, 192, seed=5).bfloat16()
    before, plain = bits(model), layer(x)
    other = product("lora_down.weight", "lora_up.weight", seed=7)
    loras.set_active(model, [Lora(weights=PLAIN), Lora(weights=other, strength=0.5)])
    pairs = [(1.0, 0), (0.5, 7)]
    change = sum(
        factor * random_tensor(192, RANK, seed=seed + 1) @ random_tensor(RANK, 192, seed=seed) for factor, seed in pairs
    )
    assert isinstance(change, Tensor)
    torch.testing.assert_close(layer(x).float(), plain.float() + x.float() @ change.t(), rtol=2e-2, atol=2e-3)
    assert changed(before, model) == set(), "the stored weights are unchanged"
    assert not loras.originals
    loras.set_active(model, [])
    assert torch.equal(layer(x), plain)


def test_quantized_layer_in_streamed_blocks(model: MultiTalkTransformer) -> None:
    """LoRA set before or after the blocks are offloaded, and unloaded."""
    quantize_layer(model, torch.int8)
    x = random_tensor(3, 192, seed=5).bfloat16()

    def run_layer() -> Tensor:
        return [block.get_submodule(LAYER.partition("1.")[2])(x) for block in model.blocks][1]

    without_lora, loras = run_layer(), LoraManager()
    loras.set_active(model, [Lora(weights=PLAIN)])
    with_lora = run_layer()
    assert not torch.equal(with_lora, without_lora)
    model.blocks = StreamedBlocks(model.blocks, 0, torch.device("cpu"))
    assert torch.equal(run_layer(), with_lora)
    loras.unload(model)
    assert torch.equal(run_layer(), without_lora)
    loras.set_active(model, [Lora(weights=PLAIN)])
    assert torch.equal(run_layer(), with_lora)


def test_quantized_layer_refuses_full_deltas(model: MultiTalkTransformer) -> None:
    quantize_linears(model, {LAYER: torch.int8}, fp8_matmul=False)
    with pytest.raises(LoraError, match=f"low-rank deltas only, not the full ones of {LAYER}"):
        LoraManager().set_active(model, [Lora(weights={f"{LAYER}.diff": random_tensor(192, 192)})])
    with pytest.raises(LoraError, match=rf"{LAYER}\.weight is \[192, 192\], not"):
        LoraManager().set_active(model, [Lora(weights={**PLAIN, f"{LAYER}.lora_up.weight": random_tensor(191, RANK)})])


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "float16", "float64"])
def test_dtypes_of_the_file(model: MultiTalkTransformer, kind: str) -> None:
    tensors = {key: (8 * tensor).to(getattr(torch, kind)) for key, tensor in PLAIN.items()}
    before = bits(model)[f"{LAYER}.weight"].float()
    LoraManager().set_active(model, [Lora(weights=tensors, strength=0.1)])
    down, up = tensors.values()
    assert torch.equal(model.get_parameter(f"{LAYER}.weight"), (before + 0.1 * (up.float() @ down.float())).bfloat16())


@pytest.mark.parametrize(
    "tensors", [{**PLAIN, f"{LAYER}.alpha": torch.tensor(0.0)}, {k: 0 * t for k, t in PLAIN.items()}]
)
def test_a_lora_that_changes_nothing_is_said(model: MultiTalkTransformer, tensors: dict[str, Tensor]) -> None:
    loras, before = LoraManager(), bits(model)
    loras.set_active(model, [Lora(weights=tensors)])
    assert "changes nothing" in loras.warnings[0]
    assert changed(before, model) == set()


def test_ranks_above_the_width(model: MultiTalkTransformer) -> None:
    """They are merged as any other; beside a quantized layer at most a matrix of the layer's size is kept."""
    pairs = [(random_tensor(500, 192, seed=n), random_tensor(192, 500, seed=n + 50)) for n in range(8)]
    loras = [
        Lora(weights={f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}, strength=0.01 * (-1) ** n)
        for n, (down, up) in enumerate(pairs)
    ]
    delta = sum(0.01 * (-1) ** n * (up @ down) for n, (down, up) in enumerate(pairs))
    before, manager = bits(model), LoraManager()
    manager.set_active(model, loras)
    expected = (before[f"{LAYER}.weight"].float() + delta).bfloat16()
    torch.testing.assert_close(model.get_parameter(f"{LAYER}.weight"), expected)
    manager.set_active(model, [])
    assert changed(before, model) == set()
    layer, x = quantize_layer(model, torch.int8), random_tensor(3, 192, seed=5).bfloat16()
    plain = layer(x)
    manager.set_active(model, loras)
    assert layer.down is not None
    assert layer.down.shape == (192, 192)
    torch.testing.assert_close((layer(x) - plain).float(), x.float() @ delta.t(), rtol=3e-2, atol=3e-3)


def test_interrupted_unloading_loses_no_original(model: MultiTalkTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    before, loras = bits(model), LoraManager()
    loras.set_active(model, [Lora(weights={**PLAIN, f"{LAYER}.diff_b": random_tensor(192)})])
    get, calls = model.get_parameter, []

    def cancel_second(name: str) -> Tensor:
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return get(name)

    monkeypatch.setattr(model, "get_parameter", cancel_second)
    with pytest.raises(KeyboardInterrupt):
        loras.set_active(model, [])
    assert len(changed(before, model)) == 1
    loras.set_active(model, [])
    assert changed(before, model) == set()


def test_failure_while_merging_unloads_all(model: MultiTalkTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    before, merge, done = bits(model), LoraManager._merge, []

    def fail_second(self: LoraManager, name: str, parameter: Tensor, deltas: Iterable[object]) -> None:
        merge(self, name, parameter, deltas)  # type: ignore[arg-type]
        done.append(name)
        if len(done) == 2:
            raise MemoryError

    monkeypatch.setattr(LoraManager, "_merge", fail_second)
    loras = LoraManager()
    with pytest.raises(MemoryError):
        loras.set_active(model, [Lora(weights={**PLAIN, f"{LAYER}.diff_b": random_tensor(192)})])
    assert changed(before, model) == set()
    assert (loras.active, loras.originals) == ((), {})


def test_streamed_blocks_are_merged_and_restored(model: MultiTalkTransformer) -> None:
    plain, before = bits(model), bits(model)
    LoraManager().set_active(model, [Lora(weights=PLAIN)])
    merged = bits(model)
    model.load_state_dict(plain)
    model.blocks = StreamedBlocks(model.blocks, 1, torch.device("cpu"))
    loras = LoraManager()
    loras.set_active(model, [Lora(weights=PLAIN)])
    assert changed(merged, model) == set()
    for number, block in enumerate(model.blocks):
        weight = block.get_parameter("cross_attn.k_img.weight")
        assert torch.equal(weight, merged[f"blocks.{number}.cross_attn.k_img.weight"])
    loras.unload(model)
    assert changed(before, model) == set()
