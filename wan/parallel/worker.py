"""The process of a rank other than 0: `python -m wan.parallel.worker FILE_DESCRIPTOR`, started by `RankPool`."""

import logging
import os
import queue
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from wan.checkpoint.components import load_transformer
from wan.checkpoint.lora import Lora, LoraManager
from wan.modules.attention import choose_backends
from wan.modules.verify_kernels import verify
from wan.offload.manager import place_transformer
from wan.parallel.group import RankGroup, open_store
from wan.parallel.messages import ABORT, Failure, RankSetup, dump, load
from wan.sampling.sampler import ChunkCondition, ChunkSampler, ClipCondition, ClipState

logger = logging.getLogger(__name__)


class Worker:
    """The transformer of one rank. Its public methods are what rank 0 calls by name."""

    def __init__(self, setup: RankSetup) -> None:
        config, device = setup.config, setup.device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.device = device
        self.group = RankGroup(
            open_store(setup.port), setup.rank, setup.num_ranks, device, config.transformer.num_heads
        )
        self.transformer = load_transformer(
            config, setup.checkpoint_dir, device, setup.precision, setup.num_resident_blocks
        )
        self.sampler = ChunkSampler(config, self.transformer, device, self.group.mesh)
        self.loras = LoraManager()
        self.clip: ClipState | None = None
        verify(device, self.transformer.dtype)
        for num_heads in self.group.head_counts:
            choose_backends(device, self.transformer.dtype, config.transformer.head_dim, num_heads)

    def connect(self, generation: int) -> None:
        """Connect with the other ranks."""
        self.group.connect(generation)

    def apply(self, num_resident_blocks: int) -> None:
        """Keep so many blocks on the device and stream the others."""
        place_transformer(self.transformer, num_resident_blocks, self.device)

    def use_loras(self, loras: Sequence[Lora]) -> None:
        """Merge these LoRAs, in place of those merged before."""
        self.loras.set_active(self.transformer, loras)

    def prepare(self, clip: ClipCondition) -> None:
        """Compute what the chunks of the clip share."""
        self.clip = None
        self.clip = self.sampler.prepare(clip)

    def sample(self, chunk: ChunkCondition, generator_state: Tensor) -> None:
        """Run this rank's share of a chunk; rank 0 has the result."""
        assert self.clip is not None, "prepare is called before sample"
        generator = torch.Generator(self.device)
        generator.set_state(generator_state.cpu())
        self.sampler.sample(self.clip, chunk, generator, on_step=lambda steps, done: None)


def serve(connection: Connection) -> None:
    """Load what the first message says, then answer each message with None or a `Failure`, until the pipe closes."""
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    group: list[RankGroup] = []
    threading.Thread(target=_read, args=(connection, messages, group), daemon=True).start()
    setup: RankSetup = load(messages.get(), torch.device("cpu"))
    try:
        worker = Worker(setup)
    except Exception as error:  # noqa: BLE001 - rank 0 raises it
        connection.send_bytes(dump(Failure.of(error)))
        return
    group.append(worker.group)
    connection.send_bytes(dump(None))
    while True:
        method, args = load(messages.get(), setup.device)
        try:
            getattr(worker, method)(*args)
            reply = None
        except Exception as error:  # noqa: BLE001 - rank 0 raises it
            reply = Failure.of(error)
            logger.info("rank %d: %s", setup.rank, reply.message)
            worker.group.disconnect(error)
        connection.send_bytes(dump(reply))


def _read(connection: Connection, messages: "queue.SimpleQueue[bytes]", group: list[RankGroup]) -> None:
    """Queue the messages of rank 0; end the process when rank 0 has ended, whatever this rank is waiting for."""
    while True:
        try:
            data = connection.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)
        if data == ABORT:
            for each in group:
                each.abort()
        else:
            messages.put(data)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
