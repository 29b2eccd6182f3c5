"""Our own form of a model: everything that inference needs, cast once, in shards of about 2 GB with their hashes.

A folder of it loads like any other; its tensors are the bits that loading the source would make. Tensors are streamed
piece by piece from the source files into the shards, so memory stays at a few pieces.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from wan.checkpoint.component import Component, LoadPlan, plan_loading
from wan.checkpoint.components import check_config, image_encoder_part, text_encoder_part, transformer_part, vae_part
from wan.checkpoint.layout import MANIFEST, CheckpointLayout, find_layout
from wan.checkpoint.loading import TensorReader
from wan.checkpoint.quanto import map_content
from wan.checkpoint.tensor_files import DTYPES, CheckpointError, row_chunks
from wan.configs.schema import ModelConfig

logger = logging.getLogger(__name__)

SHARD_SIZE = 2 * 10**9
_CPU = torch.device("cpu")
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def convert(
    config: ModelConfig,
    source: Path,
    target: Path,
    dtype: Literal["bf16", "fp8"] = "bf16",
    shard_size: int = SHARD_SIZE,
) -> None:
    """Write the networks of `config` in `source`, any layout, as one folder `target`, which must not exist.

    `bf16` keeps the configuration's own dtypes; `fp8` stores the linear layers of the transformer's and the text
    encoder's blocks as e4m3 with a scale per output row. The folder appears under its name when it is complete.
    Raises `CheckpointError` for sources that do not fit, or a target that is there already.
    """
    if target.exists():
        raise CheckpointError(f"{target} is there already")
    layout = find_layout(config, source, dtype)
    check_config(config.transformer, layout.config_json)
    plans = {name: plan_loading(part) for name, part in plan_components(config, layout, dtype).items()}
    manifest: dict[str, Any] = {"model": config.name, "dtype": dtype, "quantised": {}, "parts": {}, "sha256": {}}
    with staging_dir(target) as partial:
        require_space(partial, sum(_read_size(read) for plan in plans.values() for read in plan.reads.values()))
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
    """An empty folder beside `target`, for this process alone; what a killed one left there is removed."""
    partial = target.with_name(f".{target.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    ours = False
    descriptor = os.open(partial, os.O_RDONLY)  # the lock is on the folder itself, and goes with this process
    try:
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(descriptor).st_ino == partial.stat().st_ino
        if not ours:
            raise CheckpointError(f"another process is writing {target}")
        for left in partial.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield partial
    finally:
        os.close(descriptor)


def require_space(folder: Path, needed: int) -> None:
    """`CheckpointError` unless so many bytes are free there."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(f"{folder.parent} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed")


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plan_components(
    config: ModelConfig, layout: CheckpointLayout, dtype: Literal["bf16", "fp8"]
) -> dict[str, Component]:
    """The four networks by the names they have in the manifest."""
    return {
        "transformer": transformer_part(config, layout, dtype),
        "text_encoder": text_encoder_part(config, layout.text_encoder, dtype),
        "image_encoder": image_encoder_part(config, layout.image_encoder),
        "vae": vae_part(config, layout.vae),
    }


def write_component(plan: LoadPlan, folder: Path, name: str, shard_size: int) -> dict[str, str]:
    """Write a network as `name-0001.safetensors` and so on. Returns file names with their hashes, in order."""
    hashes = {}
    for i, shard in enumerate(_shards(plan.reads, shard_size), 1):
        file_name = f"{name}-{i:04}.safetensors"
        logger.info("writing %s", file_name)
        with (folder / file_name).open("wb") as file:
            hashes[file_name] = _write_shard(shard, file)
            file.flush()
            os.fsync(file.fileno())
    return hashes


def copy_other_files(config: ModelConfig, layout: CheckpointLayout, target: Path) -> dict[str, str]:
    """Copy what is no network: sizes, tokenizer and, where it lies beside the base, the speech encoder."""
    shutil.copyfile(layout.config_json, target / "config.json")
    shutil.copytree(layout.tokenizer, target / config.files.tokenizer)
    if layout.speech.is_dir():
        shutil.copytree(layout.speech, target / config.files.speech)
    copied = [target / "config.json", target / config.files.tokenizer, target / config.files.speech]
    files = (file for path in copied for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    return {file.relative_to(target).as_posix(): sha256(file) for file in sorted(files)}


def _shards(reads: Mapping[str, TensorReader], shard_size: int) -> Iterator[dict[str, TensorReader]]:
    """Reads in the order of their names, in groups of at most `shard_size` bytes (or one read that is larger)."""
    shard: dict[str, TensorReader] = {}
    total = 0
    for name in sorted(reads):
        size = _read_size(reads[name])
        if shard and total + size > shard_size:
            yield shard
            shard, total = {}, 0
        shard[name] = reads[name]
        total += size
    yield shard


def _write_shard(reads: Mapping[str, TensorReader], file: BinaryIO) -> str:
    """The safetensors format: length of a JSON header, the header, the tensors. Returns the file's SHA-256."""
    digest = hashlib.sha256()
    for data in chain([_header(reads)], *(_bytes(read) for read in reads.values())):
        digest.update(data)
        file.write(data)
    return digest.hexdigest()


def _header(reads: Mapping[str, TensorReader]) -> bytes:
    entries, offset = {}, 0
    for name, read in reads.items():
        for end, form in read.forms.items():
            size = _size(form.shape, form.dtype)
            entries[name + end] = {
                "dtype": _NAMES[form.dtype],
                "shape": list(form.shape),
                "data_offsets": [offset, offset + size],
            }
            offset += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _bytes(read: TensorReader) -> Iterator[bytes]:
    """The first tensor of a read piece by piece; the others, which are small, after it."""
    first, *others = read.forms
    kept: dict[str, list[Tensor]] = {end: [] for end in others}
    for rows in row_chunks(read.source):
        results = read.piece(rows, _CPU)
        yield _tensor_bytes(results[first])
        for end in others:
            kept[end].append(results[end])
    yield from (_tensor_bytes(torch.cat(tensors)) for tensors in kept.values())


def _tensor_bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _read_size(read: TensorReader) -> int:
    return sum(_size(form.shape, form.dtype) for form in read.forms.values())


def _size(shape: Iterable[int], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
