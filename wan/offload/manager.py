"""Moves the networks to the devices that an offload plan assigns them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import TypeVar

import torch
from torch import nn

from wan.checkpoint import Models, Precision
from wan.configs.schema import ModelConfig
from wan.modules.image import ImageEncoder
from wan.modules.text import TextEncoder
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import VideoVAE
from wan.offload.estimate import HOST, estimate_weights
from wan.offload.plan import OffloadPlan, OffloadPlanner
from wan.offload.streaming import StreamedBlocks
from wan.types import VideoSize

logger = logging.getLogger(__name__)

N = TypeVar("N", TextEncoder, ImageEncoder, VideoVAE)

WORKING_BYTES = 12 * 10**9
"""Bytes of a request at 480p besides all weights: keys and values, and the VAE's peak (see `estimate_memory`)."""


class OffloadManager:
    """The networks of a pipeline and the offload plan that is applied to them.

    Without a memory limit nothing is planned on a CPU: host and device are the same memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        models: Models,
        device: torch.device,
        memory_limit: int | None = None,
        num_persistent_params: int | None = None,
    ) -> None:
        """`models` are on `device` or on the host; the first plan moves them.

        `memory_limit`: bytes of the device's memory that may be used; None for all that is free.
        `num_persistent_params`: how many of the transformer's parameters may stay on the device, the others are
        streamed; None for as many as fit.
        """
        self.models = models
        self.device = device
        self.memory_limit = memory_limit
        transformer = models.transformer
        resident = None if num_persistent_params is None else max_resident_blocks(transformer, num_persistent_params)
        self.planner = OffloadPlanner(config, models, resident)
        self.plan = OffloadPlan(
            name="resident",
            num_resident_blocks=len(transformer.blocks),
            keep_encoders=True,
            offload_vae_cache=False,
            peak=0,
        )
        self._applied = transformer.device == device
        self.place_transformer: Callable[[int], None] = partial(place_transformer, transformer, device=device)

    @property
    def offload_device(self) -> torch.device:
        """Where the VAE keeps its feature cache and the decoded frames."""
        return HOST if self.plan.offload_vae_cache else self.device

    def plan_for(self, size: VideoSize, num_persons: int) -> None:
        """Choose the plan of a request and apply it. Raises `OutOfMemoryPlanError` if none fits."""
        budget = self.budget()
        if budget is not None or self.planner.max_resident_blocks is not None:
            self.apply(self.planner.estimate_and_choose(size, num_persons, budget))

    def next_smaller(self, size: VideoSize, num_persons: int) -> OffloadPlan | None:
        """The plan to try after an out-of-memory error; None if there is none that needs noticeably less."""
        return self.planner.next_smaller(self.plan, size, num_persons)

    def budget(self) -> int | None:
        """Bytes this process may use on the device, its weights included; None where nothing is planned."""
        if self.device.type != "cuda":
            return self.memory_limit
        available = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
        return available if self.memory_limit is None else min(available, self.memory_limit)

    def apply(self, plan: OffloadPlan) -> None:
        """Move the networks to where `plan` keeps them; nothing is moved if they are there already."""
        unchanged = self._applied and plan.key == self.plan.key
        self.plan = plan
        logger.info("memory plan: %s", plan)
        if unchanged:
            return
        for network in (self.models.text_encoder, self.models.image_encoder, self.models.vae):
            move(network.model, self.device if plan.keep_encoders else HOST)
        self.place_transformer(plan.num_resident_blocks)
        self._applied = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def on_device(self, network: N) -> Iterator[N]:
        """An encoder or the VAE on the device; afterwards it is moved back to the host if the plan offloads it."""
        if self.plan.keep_encoders:
            yield network
            return
        move(network.model, self.device)
        try:
            yield network
        finally:
            move(network.model, HOST)


def place_transformer(transformer: MultiTalkTransformer, num_resident_blocks: int, device: torch.device) -> None:
    """Move all but the blocks after the first `num_resident_blocks` to a device; those are streamed to it."""
    for name, child in transformer.named_children():
        if name != "blocks":
            move(child, device)
    current = transformer.blocks
    blocks = current.unwrap() if isinstance(current, StreamedBlocks) else current
    if num_resident_blocks < len(blocks):
        transformer.blocks = StreamedBlocks(blocks, num_resident_blocks, device)
    else:
        transformer.blocks = blocks
        move(blocks, device)


def move(module: nn.Module, device: torch.device) -> None:
    """Move parameters and buffers to a device, in place."""
    module.to(device)


def initial_device(config: ModelConfig, precision: Precision, device: torch.device, limit: int | None) -> torch.device:
    """Where to load the weights: `device` if all of them and the working memory fit, otherwise the host."""
    if device.type != "cuda":
        return device
    free = torch.cuda.mem_get_info(device)[0]
    free = free if limit is None else min(free, limit)
    return device if estimate_weights(config, precision) + WORKING_BYTES <= free else HOST


def max_resident_blocks(transformer: MultiTalkTransformer, num_persistent_params: int) -> int:
    """How many of the first blocks may stay on the device with at most so many parameters of the network there.

    Parameters outside the blocks always stay there, and count.
    """
    sizes = [_num_elements(block) for block in transformer.blocks.children()]
    left = num_persistent_params - (_num_elements(transformer) - sum(sizes))
    return sum(total <= left for total in accumulate(sizes))


def _num_elements(module: nn.Module) -> int:
    """Elements of parameters and buffers; the weights of quantized layers are buffers."""
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
