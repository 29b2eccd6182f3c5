"""Files of other packages: names, fp8 with scales, GGUF; and what a wrong file is called."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.wan.checkpoint.test_layout import equal, state
from wan.checkpoint import CheckpointError, Models, load_models
from wan.checkpoint.convert import convert
from wan.checkpoint.gguf_files import open_gguf
from wan.checkpoint.layout import find_layout, missing_weights, present_bundles
from wan.checkpoint.loading import Cast, load_tensors
from wan.checkpoint.lora import Lora, LoraManager
from wan.checkpoint.repackaged import identify
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules.block_formats import BLOCK_FORMATS, BlockQuantizedLinear, expand
from wan.modules.quantized import QuantizedLinear

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn
AUDIO_PATH = "MultiTalk-puppet/multitalk.safetensors"


@pytest.fixture
def folder(puppet_folder: Path, tmp_path: Path) -> Path:
    """The puppet model's folder as hard links."""
    return Path(shutil.copytree(puppet_folder, tmp_path / "weights", copy_function=os.link))


@pytest.fixture(scope="module")
def models(puppet: ModelConfig, puppet_folder: Path) -> Models:
    return load_models(puppet, puppet_folder, CPU)


@pytest.fixture(scope="module")
def plain(models: Models) -> dict[str, Tensor]:
    return state(models)


def take_base(config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    """Remove the base network's shards and config.json, and return its tensors."""
    base = folder / config.files.base
    tensors = {name: tensor for path in sorted(base.glob("*.safetensors")) for name, tensor in load_file(path).items()}
    for path in [*base.glob("diffusion*"), base / "config.json"]:
        path.unlink()
    return tensors


def take_single(config: ModelConfig, folder: Path, field: str) -> dict[str, Tensor]:
    path = folder / config.files.base / getattr(config.files, field)
    tensors = torch.load(path, weights_only=True)
    path.unlink()
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def save(path: Path, tensors: dict[str, Tensor], prefix: str = "") -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    save_file({prefix + name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize(
    "name",
    [
        "wan2.1_i2v_480p_14B_bf16.safetensors",
        "diffusion_models/Wan2_1-I2V-14B-480P_fp16.safetensors",
        "Wan2.1-I2V-puppet/any name.safetensors",
    ],
)
def test_base_of_another_name(
    puppet: ModelConfig, folder: Path, plain: dict[str, Tensor], prefix: str, name: str
) -> None:
    save(folder / name, take_base(puppet, folder), prefix)
    assert equal(state(load_models(puppet, folder, CPU)), plain)
    assert missing_weights(puppet, folder, None) is None
    assert present_bundles(puppet, folder, None) == {puppet.files.base, puppet.files.audio}
    shutil.rmtree(folder / puppet.files.audio)
    assert present_bundles(puppet, folder, None) == {puppet.files.base}


def test_published_layout_is_not_called_repackaged(puppet: ModelConfig, folder: Path) -> None:
    save(folder / "loras" / "x.safetensors", {"blocks.0.self_attn.q.lora_A.weight": torch.zeros(4, 192)})
    save(folder / puppet.files.base / "x.safetensors", {"other": torch.zeros(1)})
    assert present_bundles(puppet, folder, None) == set()
    assert present_bundles(puppet, folder / "absent", None) == set()


@pytest.mark.parametrize("packaging", ["original", "other names"])
def test_single_files_of_another_name(
    puppet: ModelConfig, folder: Path, models: Models, plain: dict[str, Tensor], packaging: str
) -> None:
    """ComfyUI has the names of transformers for T5 and CLIP, the original ones for the VAE; diffusers its own."""
    single = {field: take_single(puppet, folder, field) for field in ("vae", "text_encoder", "image_encoder")}
    if packaging == "original":
        save(folder / "vae/Wan2_1_VAE_bf16.safetensors", single["vae"], "model.")
        save(folder / "text_encoders/umt5-xxl-enc-bf16.safetensors", single["text_encoder"])
        clip = {name: tensor for name, tensor in single["image_encoder"].items() if name.startswith(("visual.", "log"))}
        save(folder / "clip_vision/open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors", clip)
    else:
        save(folder / "wan_vae.safetensors", dict(models.vae.model.state_dict()))
        text = {name: t for name, t in models.text_encoder.model.state_dict().items() if "embed_tokens" not in name}
        save(folder / "umt5_xxl_fp16.safetensors", {**text, "spiece_model": torch.zeros(9, dtype=torch.uint8)})
        clip = {f"vision_model.{name}": t for name, t in models.image_encoder.model.state_dict().items()}
        last = f"vision_model.encoder.layers.{puppet.image_encoder.num_layers - 1}.mlp.fc1.bias"
        extra = {last: torch.zeros(256), "visual_projection.weight": torch.zeros(2, 2)}
        save(folder / "clip_vision_h.safetensors", {**clip, **extra})
    assert equal(state(load_models(puppet, folder, CPU)), plain)


def test_other_version_of_the_base_in_its_own_folder(
    puppet: ModelConfig, folder: Path, plain: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    base = folder / puppet.files.base
    (folder / "Wan2.1-I2V-14B-720P").mkdir()
    for path in [*base.glob("diffusion*"), base / "config.json"]:
        path.rename(folder / "Wan2.1-I2V-14B-720P" / path.name)
    with caplog.at_level("INFO"):
        assert equal(state(load_models(puppet, folder, CPU)), plain)
    assert "Wan2.1-I2V-14B-720P/diffusion_pytorch_model" in caplog.text
    assert puppet.files.base in present_bundles(puppet, folder, None)


def is_block_linear(name: str, tensor: Tensor) -> bool:
    return name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2 and "pos_embedding" not in name


def scale_to_fp8(tensors: dict[str, Tensor], suffix: str = ".scale_weight", rows: bool = False) -> dict[str, Tensor]:
    """ComfyUI's scaled fp8: one scale a tensor, or one a row."""
    scaled = {"scaled_fp8": torch.zeros(2, dtype=FP8)}
    for name, tensor in tensors.items():
        scaled[name] = tensor
        if is_block_linear(name, tensor):
            scale = (tensor.abs().amax(1, keepdim=True) if rows else tensor.abs().max()) / 448
            scaled |= {name: (tensor / scale).to(FP8), name.replace(".weight", suffix): scale}
            scaled[name.replace(".weight", ".scale_input")] = torch.ones(())
    return scaled


@pytest.mark.parametrize(
    ("suffix", "rows"), [(".scale_weight", False), (".scale_weight", True), (".weight_scale", False)]
)
def test_scaled_fp8(
    puppet: ModelConfig,
    folder: Path,
    plain: dict[str, Tensor],
    caplog: pytest.LogCaptureFixture,
    suffix: str,
    rows: bool,
) -> None:
    base = take_base(puppet, folder)
    scaled = scale_to_fp8(base, suffix, rows)
    save(folder / "Wan2_1-I2V-14B-480P_fp8_e4m3fn_scaled_KJ.safetensors", scaled)
    text = take_single(puppet, folder, "text_encoder")
    save(folder / "umt5_xxl_fp8_e4m3fn_scaled.safetensors", scale_to_fp8(text, suffix, rows))
    loaded = load_models(puppet, folder, CPU)
    for name, tensor in base.items():
        layer = name.removesuffix(".weight")
        if not is_block_linear(name, tensor):
            assert torch.equal(loaded.transformer.state_dict()[name], tensor)
            continue
        linear = loaded.transformer.get_submodule(layer)
        assert isinstance(linear, QuantizedLinear)
        assert not linear.fp8_matmul
        assert torch.equal(linear.data.float(), scaled[name].float())
        assert torch.equal(linear.scale, scaled[layer + suffix].view(-1, 1).expand(len(tensor), 1))
        assert (linear.data.float() * linear.scale - tensor).norm() / tensor.norm() < 0.04
    assert any(isinstance(layer, QuantizedLinear) for layer in loaded.text_encoder.model.modules())
    audio = "transformer.blocks.0.audio_cross_attn.proj.weight"
    assert torch.equal(state(loaded)[audio], plain[audio])
    with caplog.at_level("WARNING"):
        load_models(puppet, folder, CPU, "int8")
    assert "stay in float8_e4m3fn, the form of the file, not int8" in caplog.text
    in_fp8 = load_models(puppet, folder, CPU, "fp8").transformer.get_submodule("blocks.0.ffn.0")
    assert isinstance(in_fp8, QuantizedLinear)
    assert in_fp8.fp8_matmul


def test_fp8_without_scales_keeps_its_values(puppet: ModelConfig, folder: Path) -> None:
    base = take_base(puppet, folder)
    save(folder / "x.safetensors", {name: t.to(FP8) if t.ndim > 1 else t for name, t in base.items()})
    loaded = load_models(puppet, folder, CPU).transformer
    weight = loaded.get_submodule("blocks.0.ffn.0")
    assert isinstance(weight, QuantizedLinear)
    assert torch.equal(weight.data.float() * weight.scale, base["blocks.0.ffn.0.weight"].to(FP8).float())
    assert torch.equal(loaded.patch_embedding.weight, base["patch_embedding.weight"].to(FP8).float())


def test_scale_without_a_weight_is_refused(puppet: ModelConfig, folder: Path) -> None:
    base = take_base(puppet, folder)
    save(folder / "x.safetensors", {**base, "blocks.0.gone.scale_weight": torch.ones(())})
    with pytest.raises(CheckpointError, match=r"1 scales without a weight: blocks\.0\.gone\.scale_weight"):
        load_models(puppet, folder, CPU)


def random_blocks(block_format: str, count: int) -> np.ndarray:
    """Random bytes with finite scales."""
    layout = BLOCK_FORMATS[block_format]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (count, layout.bytes), dtype=np.uint8)
    halves = rng.normal(0, 0.01, (count, 2)).astype(np.float16).view(np.uint8)
    if block_format in ("Q2_K", "Q3_K", "Q6_K"):
        size = 4 if block_format == "Q2_K" else 2
        blocks[:, -size:] = halves[:, :size]
    else:
        size = 2 if block_format.endswith("_0") else 4
        blocks[:, :size] = halves[:, :size]
    return blocks


@pytest.mark.parametrize("block_format", list(BLOCK_FORMATS))
def test_expansion_is_that_of_the_package(block_format: str) -> None:
    blocks = random_blocks(block_format, 60).reshape(12, -1)
    expected = gguf.dequantize(blocks, gguf.GGMLQuantizationType[block_format])
    assert np.array_equal(expand(torch.from_numpy(blocks), block_format).numpy(), expected)


def write_gguf(path: Path, tensors: dict[str, Tensor], block_format: str) -> dict[str, Tensor]:
    """Linear layers of the blocks in a block format, or Q8_0 where rows are too short for it. Returns their values."""
    writer = gguf.GGUFWriter(path, "wan")
    values = {}
    for name, tensor in {name: tensor.float() for name, tensor in tensors.items()}.items():
        if not is_block_linear(name, tensor):
            if tensor.ndim > 4:
                writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
            writer.add_tensor(name, tensor.flatten(0, -4).numpy() if tensor.ndim > 4 else tensor.numpy())
            continue
        fits = tensor.shape[1] % BLOCK_FORMATS[block_format].values == 0
        kind = gguf.GGMLQuantizationType[block_format if fits else "Q8_0"]
        if kind.name == "Q8_0":
            data = gguf.quantize(tensor.numpy(), kind)
        else:
            count = tensor.numel() // BLOCK_FORMATS[block_format].values
            data = random_blocks(block_format, count).reshape(len(tensor), -1)
        writer.add_tensor(name, data, raw_dtype=kind)
        values[name] = torch.from_numpy(gguf.dequantize(data, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.mark.parametrize("block_format", list(BLOCK_FORMATS))
def test_gguf_stays_packed(puppet: ModelConfig, folder: Path, tmp_path: Path, block_format: str) -> None:
    base = take_base(puppet, folder)
    values = write_gguf(folder / f"wan2.1-i2v-14b-480p-{block_format}.gguf", base, block_format)
    transformer = load_models(puppet, folder, CPU).transformer
    formats = set()
    for name, tensor in base.items():
        if name not in values:
            assert torch.equal(transformer.state_dict()[name], tensor)
            continue
        linear = transformer.get_submodule(name.removesuffix(".weight"))
        assert isinstance(linear, BlockQuantizedLinear)
        formats.add(linear.block_format)
        assert linear.data.nbytes < 0.3 * tensor.nbytes
        x = torch.randn(2, tensor.shape[1])
        assert torch.equal(linear.product(x), torch.nn.functional.linear(x, values[name], linear.bias))
    assert block_format in formats
    target = tmp_path / "converted"
    convert(puppet, folder, target)  # expanded
    weight = load_models(puppet, target, CPU).transformer.state_dict()["blocks.0.ffn.2.weight"]
    assert torch.equal(weight, values["blocks.0.ffn.2.weight"])


def test_gguf_of_plain_formats(tmp_path: Path) -> None:
    tensor = torch.randn(3, 64)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "wan")
    writer.add_tensor("F32", tensor.numpy())
    writer.add_tensor("F16", tensor.half().numpy())
    kind = gguf.GGMLQuantizationType.BF16
    writer.add_tensor("BF16", gguf.quantize(tensor.numpy(), kind), raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    sources = open_gguf(tmp_path / "x.gguf")
    values = load_tensors({name: Cast(source, torch.float32) for name, source in sources.items()}, CPU)
    assert torch.equal(values["F32"], tensor)
    assert torch.equal(values["F16"], tensor.half().float())
    assert torch.equal(values["BF16"], tensor.bfloat16().float())


def test_unsupported_gguf_format_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "wan")
    writer.add_tensor("a.weight", np.zeros((2, 136), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ4_XS)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(CheckpointError, match=r"a\.weight is stored as IQ4_XS; supported are .*Q2_K, .*Q6_K"):
        open_gguf(tmp_path / "x.gguf")


def test_gguf_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match="needs the package gguf: pip install gguf"):
        open_gguf(tmp_path / "x.gguf")


def test_gguf_text_encoder(puppet: ModelConfig, folder: Path, models: Models) -> None:
    """The names of llama.cpp, as in published conversions of UMT5."""
    text = take_single(puppet, folder, "text_encoder")
    renamed = {
        "token_embedding.": "token_embd.",
        "blocks.": "enc.blk.",
        "pos_embedding.embedding.": "attn_rel_b.",
        "attn.": "attn_",
        "norm1.": "attn_norm.",
        "norm2.": "ffn_norm.",
        "ffn.gate.0.": "ffn_gate.",
        "ffn.fc1.": "ffn_up.",
        "ffn.fc2.": "ffn_down.",
    }
    writer = gguf.GGUFWriter(folder / "umt5-xxl-encoder-Q8_0.gguf", "t5encoder")
    for name, tensor in text.items():
        new = "enc.output_norm.weight" if name == "norm.weight" else name
        for old, short in renamed.items():
            new = new.replace(old, short)
        if is_block_linear(name, tensor) or name.startswith("token"):
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(new, gguf.quantize(tensor.float().numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(new, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loaded = load_models(puppet, folder, CPU).text_encoder
    assert any(isinstance(layer, BlockQuantizedLinear) for layer in loaded.model.modules())
    expected = models.text_encoder("hello")
    assert (loaded("hello") - expected).norm() / expected.norm() < 0.02


def test_lora_on_packed_layers(puppet: ModelConfig, folder: Path) -> None:
    write_gguf(folder / "x-Q8_0.gguf", take_base(puppet, folder), "Q8_0")
    transformer = load_models(puppet, folder, CPU).transformer
    weights = {
        "diffusion_model.blocks.0.ffn.0.lora_A.weight": torch.randn(4, 192),
        "diffusion_model.blocks.0.ffn.0.lora_B.weight": torch.randn(512, 4),
    }
    x = torch.randn(2, 192)
    before = transformer.blocks.get_submodule("0.ffn.0")(x)
    LoraManager().set_active(transformer, [Lora(weights=weights)])
    down, up = weights.values()
    after = transformer.blocks.get_submodule("0.ffn.0")(x)
    assert torch.allclose(after, before + x @ down.T @ up.T, atol=1e-3)


@pytest.mark.parametrize("content", [b"GGUF" + bytes(99), b"", b"no"])
def test_damaged_gguf_is_refused(puppet: ModelConfig, folder: Path, content: bytes) -> None:
    take_base(puppet, folder)
    (folder / "wan2.1-i2v-14b-480p-Q4_K_M.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"wan2\.1-i2v-14b-480p-Q4_K_M\.gguf \(unreadable"):
        load_models(puppet, folder, CPU)


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("a LoRA", lambda base: {"diffusion_model.blocks.0.ffn.0.lora_down.weight": torch.zeros(4, 192)}),
        (
            "a T2V transformer, 192 wide, 6 layers, 16 input channels",
            lambda base: {
                **{name: tensor for name, tensor in base.items() if not name.startswith("img_emb")},
                "patch_embedding.weight": torch.zeros(192, 16, 1, 2, 2),
            },
        ),
        ("a VACE transformer", lambda base: {**base, "vace_blocks.0.ffn.0.weight": torch.zeros(2, 2)}),
        (
            "a I2V transformer, 1.3B, 6 layers",
            lambda base: {**base, "patch_embedding.weight": torch.zeros(1536, 36, 1, 2, 2)},
        ),
        ("another model", lambda base: {"model.layers.0.mlp.weight": torch.zeros(2, 2)}),
        (
            "a transformer in diffusers' format",
            lambda base: {"condition_embedder.time_embedder.linear_1.weight": base["head.head.bias"]},
        ),
    ],
)
def test_wrong_file_is_named(puppet: ModelConfig, folder: Path, words: str, change: Change) -> None:
    save(folder / "mine.safetensors", change(take_base(puppet, folder)))
    with pytest.raises(CheckpointError, match=rf"{folder} has mine\.safetensors \({words}"):
        load_models(puppet, folder, CPU)


def test_two_base_files_are_refused(puppet: ModelConfig, folder: Path) -> None:
    base = take_base(puppet, folder)
    for name in ("a.safetensors", "diffusion_models/b.safetensors"):
        save(folder / name, base)
    with pytest.raises(
        CheckpointError, match=r"base transformer: a\.safetensors, diffusion_models/b\.safetensors; keep"
    ):
        find_layout(puppet, folder, None)


def test_full_size_files_are_identified(tmp_path: Path) -> None:
    """By their headers alone: other sizes of the network are not the model's."""
    config = WAN_CONFIGS["multitalk-14B"]
    path = tmp_path / "x.safetensors"
    for dim, channels, words in ((5120, 16, "a T2V transformer, 14B"), (1536, 16, "a T2V transformer, 1.3B")):
        tensors = {"patch_embedding.weight": torch.zeros(dim, channels, 1, 2, 2), "blocks.0.x": torch.zeros(1)}
        save(path, tensors)
        assert identify((path,), config).startswith(words)
