"""Conversion to one folder with everything inference needs: cast or quantized tensors in hashed shards of about 2 GB.

The folder loads like any other layout, to the tensors that loading the source gives, bit for bit. Tensors are streamed
in chunks from the source files to the shards, so that only a few chunks are in memory.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from wan.checkpoint.component import Component, LoadPlan, plan_loading
from wan.checkpoint.components import (
    check_config,
    image_encoder_component,
    text_encoder_component,
    transformer_component,
    vae_component,
)
from wan.checkpoint.layout import MANIFEST, CheckpointLayout, find_layout
from wan.checkpoint.loading import TensorReader, TensorSpec
from wan.checkpoint.quanto import map_content
from wan.checkpoint.tensor_files import DTYPES, CheckpointError, row_chunks
from wan.configs.schema import ModelConfig

logger = logging.getLogger(__name__)

SHARD_SIZE = 2 * 10**9
_CPU = torch.device("cpu")
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def convert(
    config: ModelConfig,
    source: Path,
    target: Path,
    dtype: Literal["bf16", "fp8"] = "bf16",
    shard_size: int = SHARD_SIZE,
) -> None:
    """Write the networks of `config` in `source`, any layout, to the folder `target`, which must not exist.

    `bf16` means the dtypes of the configuration; `fp8` stores the linear layers of the transformer's and the text
    encoder's blocks as e4m3 with a scale per output row. The folder gets its name when it is complete.
    Raises `CheckpointError` for a source that does not load, or if `target` exists.
    """
    if target.exists():
        raise CheckpointError(f"{target} already exists")
    layout = find_layout(config, source, dtype)
    check_config(config.transformer, layout.config_json)
    plans = {name: plan_loading(each) for name, each in make_components(config, layout, dtype).items()}
    manifest: dict[str, Any] = {"model": config.name, "dtype": dtype, "quantised": {}, "parts": {}, "sha256": {}}
    with staging_dir(target) as partial:
        needed = sum(_output_bytes(reader) for plan in plans.values() for reader in plan.readers.values())
        free = shutil.disk_usage(partial).free
        if needed > free:
            raise CheckpointError(f"{target.parent} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed")
        for name, plan in plans.items():
            hashes = write_component(plan, partial, name, shard_size)
            manifest["parts"][name] = list(hashes)
            manifest["sha256"] |= hashes
            if plan.layers:
                manifest["quantised"][name] = map_content(plan.layers)
        manifest["sha256"] |= copy_other_files(config, layout, partial)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        partial.rename(target)


@contextmanager
def staging_dir(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, locked for this process; the remains of a killed one are removed."""
    partial = target.with_name(f".{target.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    locked = False
    descriptor = os.open(
        partial, os.O_RDONLY
    )  # the lock is on the folder itself, and is released when this process ends
    try:
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = os.fstat(descriptor).st_ino == partial.stat().st_ino
        if not locked:
            raise CheckpointError(f"another process is writing {target}")
        for path in partial.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield partial
    finally:
        os.close(descriptor)


def make_components(
    config: ModelConfig, layout: CheckpointLayout, dtype: Literal["bf16", "fp8"]
) -> dict[str, Component]:
    """The four components by their names in the manifest; fp8 and GGUF weights are expanded."""
    components = {
        "transformer": transformer_component(config, layout, dtype),
        "text_encoder": text_encoder_component(config, layout.text_encoder, dtype),
        "image_encoder": image_encoder_component(config, layout.image_encoder),
        "vae": vae_component(config, layout.vae),
    }
    return {name: replace(component, keep_packed=False) for name, component in components.items()}


def write_component(plan: LoadPlan, folder: Path, name: str, shard_size: int) -> dict[str, str]:
    """Write a network as `name-0001.safetensors` and so on. Returns the SHA-256 of each file by name, in order."""
    hashes = {}
    for i, shard in enumerate(_shards(plan.readers, shard_size), 1):
        file_name = f"{name}-{i:04}.safetensors"
        logger.info("writing %s", file_name)
        with (folder / file_name).open("wb") as file:
            hashes[file_name] = _write_shard(shard, file)
            file.flush()
            os.fsync(file.fileno())
    return hashes


def copy_other_files(config: ModelConfig, layout: CheckpointLayout, target: Path) -> dict[str, str]:
    """Copy config.json, the tokenizer and, if present, the speech encoder. Returns the SHA-256 of each file by path."""
    if layout.config_json is None:
        text = json.dumps(asdict(config.transformer), indent=1)
        (target / "config.json").write_text(text + "\n", encoding="utf-8")
    else:
        shutil.copyfile(layout.config_json, target / "config.json")
    shutil.copytree(layout.tokenizer, target / config.files.tokenizer)
    if layout.speech_encoder.is_dir():
        shutil.copytree(layout.speech_encoder, target / config.files.speech)
    copied = [target / "config.json", target / config.files.tokenizer, target / config.files.speech]
    paths = (path for each in copied for path in (each.rglob("*") if each.is_dir() else [each]) if path.is_file())
    hashes = {}
    for path in sorted(paths):
        with path.open("rb") as file:
            hashes[path.relative_to(target).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _shards(readers: Mapping[str, TensorReader], shard_size: int) -> Iterator[dict[str, TensorReader]]:
    """Readers in the order of their keys, in groups of at most `shard_size` bytes or of one larger tensor."""
    shard: dict[str, TensorReader] = {}
    total = 0
    for key in sorted(readers):
        size = _output_bytes(readers[key])
        if shard and total + size > shard_size:
            yield shard
            shard, total = {}, 0
        shard[key] = readers[key]
        total += size
    yield shard


def _write_shard(readers: Mapping[str, TensorReader], file: BinaryIO) -> str:
    """Write the safetensors format: length of the JSON header, header, tensors. Returns the file's SHA-256."""
    digest = hashlib.sha256()
    for data in chain([_header(readers)], *(_iter_bytes(reader) for reader in readers.values())):
        digest.update(data)
        file.write(data)
    return digest.hexdigest()


def _header(readers: Mapping[str, TensorReader]) -> bytes:
    entries, offset = {}, 0
    for key, reader in readers.items():
        for suffix, spec in reader.outputs.items():
            size = _spec_bytes(spec)
            entries[key + suffix] = {
                "dtype": _DTYPE_NAMES[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [offset, offset + size],
            }
            offset += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _iter_bytes(reader: TensorReader) -> Iterator[bytes]:
    """The first output of a reader chunk by chunk, then the others, which are small."""
    first, *others = reader.outputs
    kept: dict[str, list[Tensor]] = {suffix: [] for suffix in others}
    for rows in row_chunks(reader.source):
        chunks = reader.read_chunk(rows, _CPU)
        yield _tensor_bytes(chunks[first])
        for suffix in others:
            kept[suffix].append(chunks[suffix])
    yield from (_tensor_bytes(torch.cat(tensors)) for tensors in kept.values())


def _tensor_bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _output_bytes(reader: TensorReader) -> int:
    return sum(_spec_bytes(spec) for spec in reader.outputs.values())


def _spec_bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * spec.dtype.itemsize
