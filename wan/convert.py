"""Our own form of a model: everything that inference needs, cast once, in shards of about 2 GB with their hashes.

A folder of it loads like any other; its tensors are the bits that loading the source would make. Tensors are streamed
piece by piece from the source files into the shards, so memory stays at a few pieces.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import struct
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from wan.checkpoint import check_sizes, image_encoder_part, text_encoder_part, transformer_part, vae_part
from wan.configs.schema import ModelConfig
from wan.layout import MANIFEST, Layout, find_layout, read_manifest
from wan.part import Part, Plan, make_plan
from wan.quantised import map_content
from wan.reading import Read
from wan.stored import DTYPES, CheckpointError, pieces

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
    check_sizes(config.transformer, layout.config_json)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    manifest: dict[str, Any] = {"model": config.name, "dtype": dtype, "quantised": {}, "parts": {}, "sha256": {}}
    for name, part in model_parts(config, layout, dtype).items():
        plan = make_plan(part)
        hashes = write_part(plan, partial, name, shard_size)
        manifest["parts"][name] = list(hashes)
        manifest["sha256"] |= hashes
        if plan.layers:
            manifest["quantised"][name] = map_content(plan.layers)
    manifest["sha256"] |= copy_rest(config, layout, partial)
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    partial.rename(target)


def pack(source: Path, target: Path) -> None:
    """A plain tar of a converted folder, below a folder of its name, for a downloader that unpacks while it loads."""
    read_manifest(source)
    partial = target.with_name(f".{target.name}.partial")
    with tarfile.open(partial, "w") as tar:
        tar.add(source, arcname=source.name)
    partial.rename(target)


def verify(folder: Path) -> list[str]:
    """Names of the files of a converted folder that are absent or differ from their hashes."""
    hashes: Mapping[str, str] = read_manifest(folder)["sha256"]
    return [name for name, digest in hashes.items() if not (folder / name).is_file() or sha256(folder / name) != digest]


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_parts(config: ModelConfig, layout: Layout, dtype: Literal["bf16", "fp8"]) -> dict[str, Part]:
    """The four networks by the names they have in the manifest."""
    return {
        "transformer": transformer_part(config, layout, dtype),
        "text_encoder": text_encoder_part(config, layout.text_encoder, dtype),
        "image_encoder": image_encoder_part(config, layout.image_encoder),
        "vae": vae_part(config, layout.vae),
    }


def write_part(plan: Plan, folder: Path, name: str, shard_size: int) -> dict[str, str]:
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


def copy_rest(config: ModelConfig, layout: Layout, target: Path) -> dict[str, str]:
    """Copy what is no network: sizes, tokenizer and, where it lies beside the base, the speech encoder."""
    shutil.copyfile(layout.config_json, target / "config.json")
    shutil.copytree(layout.tokenizer, target / config.files.tokenizer)
    speech = next((path for path in layout.places if (path / config.files.speech).is_dir()), None)
    if speech is not None:
        shutil.copytree(speech / config.files.speech, target / config.files.speech)
    copied = [target / "config.json", target / config.files.tokenizer, target / config.files.speech]
    files = (file for path in copied for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    return {file.relative_to(target).as_posix(): sha256(file) for file in sorted(files)}


def _shards(reads: Mapping[str, Read], shard_size: int) -> Iterator[dict[str, Read]]:
    """Reads in the order of their names, in groups of at most `shard_size` bytes (or one read that is larger)."""
    shard: dict[str, Read] = {}
    total = 0
    for name in sorted(reads):
        size = sum(_size(form.shape, form.dtype) for form in reads[name].forms.values())
        if shard and total + size > shard_size:
            yield shard
            shard, total = {}, 0
        shard[name] = reads[name]
        total += size
    yield shard


def _write_shard(reads: Mapping[str, Read], file: BinaryIO) -> str:
    """The safetensors format: length of a JSON header, the header, the tensors. Returns the file's SHA-256."""
    digest = hashlib.sha256()
    for data in chain([_header(reads)], *(_bytes(read) for read in reads.values())):
        digest.update(data)
        file.write(data)
    return digest.hexdigest()


def _header(reads: Mapping[str, Read]) -> bytes:
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


def _bytes(read: Read) -> Iterator[bytes]:
    """The first tensor of a read piece by piece; the others, which are small, after it."""
    first, *others = read.forms
    kept: dict[str, list[Tensor]] = {end: [] for end in others}
    for rows in pieces(read.source):
        results = read.piece(rows, _CPU)
        yield _memory(results[first])
        for end in others:
            kept[end].append(results[end])
    yield from (_memory(torch.cat(tensors)) for tensors in kept.values())


def _memory(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _size(shape: Iterable[int], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
