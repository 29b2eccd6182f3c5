"""Messages between rank 0 and the processes of the other ranks, over a pipe."""

import io
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from wan.checkpoint import Precision
from wan.configs.schema import ModelConfig

Kind = Literal["out of memory", "error", "disconnected"]

ABORT = b"abort"
"""A message on its own: the reader ends the running collective operation at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSetup:
    """What a rank needs to load the transformer and to connect. `port`: the store of rank 0 on 127.0.0.1."""

    config: ModelConfig
    checkpoint_dir: Path
    precision: Precision
    rank: int
    num_ranks: int
    device: torch.device
    num_resident_blocks: int | None
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An exception of one rank. "disconnected": another rank failed first, and this one lost its connection."""

    kind: Kind
    message: str
    details: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """The failure that an exception stands for."""
        kind: Kind = "disconnected" if is_disconnection(error) else "error"
        if isinstance(error, torch.OutOfMemoryError):
            kind = "out of memory"
        return cls(kind=kind, message=f"{type(error).__name__}: {error}", details=traceback.format_exc())

    def exception(self, rank: int) -> Exception:
        """The exception to raise on rank 0."""
        error: Callable[[str], Exception] = torch.OutOfMemoryError if self.kind == "out of memory" else RuntimeError
        return error(f"GPU {rank}: {self.message}")


def is_disconnection(error: BaseException) -> bool:
    """Whether a collective operation failed because another rank left it."""
    if isinstance(error, torch.distributed.DistBackendError | torch.distributed.DistNetworkError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ("gloo", "NCCL", "ncclComm"))


def dump(message: object) -> bytes:
    """Serialize a message, its tensors included; through a pipe, because containers limit shared memory."""
    buffer = io.BytesIO()
    torch.save(message, buffer)
    return buffer.getvalue()


def load(data: bytes, device: torch.device) -> Any:
    """The message of `dump`, from a process of ours, with its tensors on `device`."""
    return torch.load(io.BytesIO(data), map_location=device, weights_only=False)
