"""Peak resident memory of loading and converting, and the bytes that they read from disk.

The checkpoint has 2 GB in float32 but takes no disk space: its shards are sparse safetensors files. It is loaded in a
separate process, whose memory before loading is subtracted.
"""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from training.export import AUDIO_NAMES
from wan.configs import ModelConfig
from wan.modules.transformer import MultiTalkTransformer

ROOT = Path(__file__).parents[3]
SHARDS = 7
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from diffusers import AutoencoderKLWan  # imported on first use: not part of what is measured
from transformers import AutoTokenizer, CLIPVisionModel, UMT5EncoderModel
from tests.wan.checkpoint.test_loading_memory import LAYERS_OF, scaled
from wan.checkpoint import load_models
from wan.configs import WAN_CONFIGS
from wan.checkpoint.convert import convert
from wan.offload.manager import OffloadManager
from wan.offload.streaming import StreamedBlocks
from wan.types import VideoSize

def field(file, name):
    return int(next(line.split()[1] for line in open(f"/proc/self/{file}") if line.startswith(name)))

task, folder, layers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
config = scaled(WAN_CONFIGS["multitalk-puppet"], layers)
rss, read = field("status", "VmRSS:") * 1024, field("io", "rchar:")
if task == "convert":
    convert(config, folder, folder / "converted", "bf16", shard_size=int(sys.argv[4]))
elif task == "streamed":
    models = load_models(config, folder, torch.device("cpu"))
    manager = OffloadManager(config, models, torch.device("cpu"), num_persistent_params=0)
    manager.apply(manager.planner.plans(VideoSize(frames=5, height=64, width=64), 1)[-1])
    assert isinstance(models.transformer.blocks, StreamedBlocks)
else:
    models = load_models(config, folder, torch.device("cpu"), task)
peak = field("status", "VmHWM:") * 1024  # getrusage would include the parent process
print(json.dumps({"peak": peak - rss, "read": field("io", "rchar:") - read}))
"""
LAYERS_OF = {"2 GB": 24, "0.6 GB": 7}


def scaled(puppet: ModelConfig, layers: int) -> ModelConfig:
    """A transformer with tensors of 4 to 17 MB; the other networks stay those of the puppet model."""
    sizes = replace(puppet.transformer, dim=1024, ffn_dim=4096, num_heads=8, num_layers=layers)
    return replace(puppet, transformer=sizes, dtype="bfloat16")


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]], fp8: Collection[str] = ()) -> int:
    """Write a sparse safetensors file of zeros, in float32 except for the names in `fp8`. Returns its size."""
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        end = offset + (1 if name in fp8 else 4) * math.prod(shape)
        header[name] = {
            "dtype": "F8_E4M3" if name in fp8 else "F32",
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + offset)
    return path.stat().st_size


def write_scaled(puppet: ModelConfig, puppet_folder: Path, folder: Path, layers: int) -> int:
    """Write the puppet model's folder with a larger transformer. Returns the bytes of the transformer's files."""
    config = scaled(puppet, layers)
    with torch.device("meta"):
        tensors = MultiTalkTransformer(config.transformer).state_dict()
    shutil.copytree(puppet_folder, folder, copy_function=os.link)
    base = folder / config.files.base
    for path in (*base.glob("diffusion_pytorch_model*"), base / "config.json", *folder.glob("*/multitalk.safetensors")):
        path.unlink()
    (base / "config.json").write_text(json.dumps(asdict(config.transformer)))
    audio = {name for name in tensors if any(infix in name for infix in AUDIO_NAMES)}
    names = [name for name in tensors if name not in audio]
    step = -(-len(names) // SHARDS)
    groups = {
        base / f"diffusion_pytorch_model-{i + 1:05}-of-{SHARDS:05}.safetensors": names[i * step : (i + 1) * step]
        for i in range(SHARDS)
    }
    groups[folder / config.files.audio / config.files.audio_weights] = sorted(audio)
    return sum(
        write_sparse(path, {name: tuple(tensors[name].shape) for name in group}) for path, group in groups.items()
    )


def measure(*arguments: object) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp8", marks=pytest.mark.soak)])
def test_loading_holds_one_copy_and_reads_every_byte_once(
    puppet: ModelConfig, puppet_folder: Path, tmp_path: Path, precision: str
) -> None:
    size = write_scaled(puppet, puppet_folder, tmp_path / "w", LAYERS_OF["2 GB"])
    assert size > 2e9
    measured = measure(precision, tmp_path / "w", LAYERS_OF["2 GB"])
    assert measured["peak"] < {"bf16": 1.15, "fp8": 0.9}[precision] * size / 2
    assert size * 0.999 < measured["read"] < size * 1.02


def test_streaming_what_was_loaded_holds_one_copy(puppet: ModelConfig, puppet_folder: Path, tmp_path: Path) -> None:
    """Blocks are page-locked where they were loaded. Before, the peak was twice their size."""
    layers = LAYERS_OF["0.6 GB"]
    size = write_scaled(puppet, puppet_folder, tmp_path / "w", layers)
    peak = measure("streamed", tmp_path / "w", layers)["peak"]
    assert peak < size / 2 + 110e6, "four buffers of 16 MB for reading, and modules that are imported on first use"


def write_gguf(path: Path, shapes: dict[str, tuple[int, ...]], q4_k: Collection[str]) -> int:
    """Write a sparse GGUF file of zeros, in float32 except for the names in `q4_k`. Returns its size."""
    writer = gguf.GGUFWriter(path, "wan")
    for name, shape in shapes.items():
        if name in q4_k:
            kind = gguf.GGMLQuantizationType.Q4_K
            stored = gguf.quant_shape_to_byte_shape(shape, kind)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), raw_dtype=kind)
        else:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * math.prod(shape))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_ti_data_to_file):
        write()
    writer.close()
    align = 32
    sizes = [info.nbytes for info in writer.tensors[0].values()]
    end = sum(-(-size // align) * align for size in sizes)
    os.truncate(path, -(-path.stat().st_size // align) * align + end)
    return path.stat().st_size


def read_header(path: Path) -> dict[str, Any]:
    """The tensors in a safetensors file's header."""
    if path.suffix != ".safetensors":
        return {}
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


@pytest.mark.parametrize("form", ["scaled fp8", "GGUF"])
def test_loading_packed_weights_holds_one_copy(
    puppet: ModelConfig, puppet_folder: Path, tmp_path: Path, form: str
) -> None:
    folder, layers = tmp_path / "w", LAYERS_OF["0.6 GB"]
    write_scaled(puppet, puppet_folder, folder, layers)
    base = folder / puppet.files.base
    shapes = {
        name: tuple(entry["shape"])
        for path in base.glob("diffusion_pytorch_model*")
        for name, entry in read_header(path).items()
    }
    for path in (*base.glob("diffusion_pytorch_model*"), base / "config.json"):
        path.unlink()
    packed = {name for name, shape in shapes.items() if name.startswith("blocks.") and len(shape) == 2}
    if form == "scaled fp8":
        scales = {name.replace(".weight", ".scale_weight"): () for name in packed}
        size = write_sparse(folder / "x_fp8_scaled.safetensors", {**shapes, **scales}, packed)
    else:
        size = write_gguf(folder / "x-Q4_K.gguf", shapes, packed)
    audio = (folder / puppet.files.audio / puppet.files.audio_weights).stat().st_size
    measured = measure("bf16", folder, layers)
    assert measured["peak"] < 1.15 * (size + audio / 2) + 30 * 2**20
    assert measured["read"] < (size + audio) * 1.02 + 2**24  # modules that are imported on first use


def test_converting_holds_less_than_two_shards(puppet: ModelConfig, puppet_folder: Path, tmp_path: Path) -> None:
    size = write_scaled(puppet, puppet_folder, tmp_path / "w", LAYERS_OF["0.6 GB"])
    shard = 60 * 10**6
    measured = measure("convert", tmp_path / "w", LAYERS_OF["0.6 GB"], shard)
    assert size > 6e8
    assert measured["peak"] < 2 * shard
    assert size * 0.999 < measured["read"] < size * 1.7, "copied files are read once more for their hashes"
    shutil.rmtree(tmp_path / "w")
