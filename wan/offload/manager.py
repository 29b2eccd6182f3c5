"""Keeps the networks where a memory plan wants them, and moves them when the plan changes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import TypeVar

import torch
from torch import nn

from wan.checkpoint.components import Models, Precision
from wan.configs.schema import ModelConfig
from wan.modules.image import ImageEncoder, build_image_encoder
from wan.modules.text import TextEncoder, build_text_encoder
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import VideoVAE, build_vae
from wan.offload.estimate import (
    HOST,
    MemoryEstimate,
    OffloadPlan,
    WeightBytes,
    bytes_of,
    choose_plan,
    enumerate_plans,
    estimate_memory,
)
from wan.offload.streaming import StreamedBlocks
from wan.types import VideoSize

logger = logging.getLogger(__name__)

N = TypeVar("N", TextEncoder, ImageEncoder, VideoVAE)

MARGIN = 0.1
"""Share of a plan's peak kept free on top of it, for what the counting does not see: workspaces, fragments."""
WORKING_BYTES = 12 * 10**9
"""Bytes that a request at 480 wants beside all weights: keys and values, and the VAE's work (see `estimate_memory`)."""
MIN_REDUCTION = 0.9
"""A plan that is tried after memory ran out must need at most this share of the one before."""


class OffloadManager:
    """The networks of a pipeline and the plan they follow.

    On a CPU without a limit there is nothing to plan: host and device are the same memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        models: Models,
        device: torch.device,
        limit: int | None = None,
        persistent: int | None = None,
    ) -> None:
        """Networks on `device`, or on the host, from where the first plan brings to the device what it wants there.

        `limit`: bytes of the device's memory that may be used; None for all that is free. `persistent`: how many of
        the transformer's parameters may stay on the device; the others are streamed. None for as many as fit.
        """
        self.config = config
        self.models = models
        self.device = device
        self.limit = limit
        blocks = models.transformer.blocks
        self.most_resident = None if persistent is None else blocks_within(models.transformer, persistent)
        self.plan = OffloadPlan(
            name="resident", resident_blocks=len(blocks), encoders_stay=True, vae_slices=False, peak=0
        )
        self._settled = models.transformer.device == device
        self._demands: dict[tuple[VideoSize, int], MemoryEstimate] = {}

    @property
    def weights(self) -> WeightBytes:
        """Bytes of the networks, and of what is computed beside weights in eight bits."""
        return weights_of(self.models)

    def prepare_for(self, size: VideoSize, persons: int) -> None:
        """Choose the plan of a request and settle into it. Raises `OutOfMemoryPlanError` where none fits."""
        budget = self.budget()
        if budget is not None:
            self.settle(choose_plan(self.plans(size, persons), budget, MARGIN))
        elif self.most_resident is not None:
            self.settle(self.plans(size, persons)[0])

    def plans(self, size: VideoSize, persons: int) -> list[OffloadPlan]:
        """Every plan for a request of this size, from the fastest to the leanest."""
        return enumerate_plans(self.weights, self.demand(size, persons), self.most_resident)

    @property
    def rest(self) -> torch.device:
        """Where the plan lets the VAE's features and finished frames wait."""
        return HOST if self.plan.vae_slices else self.device

    def demand(self, size: VideoSize, persons: int) -> MemoryEstimate:
        """What a request of this size needs; counted once per size."""
        key = (size, persons)
        if key not in self._demands:
            self._demands[key] = estimate_memory(self.config, size, persons, self.models.transformer)
        return self._demands[key]

    def budget(self) -> int | None:
        """Bytes this process may use on the device, its weights included; None where there is nothing to plan."""
        if self.device.type != "cuda":
            return self.limit
        available = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
        return available if self.limit is None else min(available, self.limit)

    def leaner(self, size: VideoSize, persons: int) -> OffloadPlan | None:
        """The next plan that needs noticeably less than the present one."""
        candidates = self.plans(size, persons)
        present = next((plan for plan in candidates if plan.places == self.plan.places), candidates[0])
        return next((plan for plan in candidates if plan.peak <= MIN_REDUCTION * present.peak), None)

    def settle(self, plan: OffloadPlan) -> None:
        """Move the networks to where the plan wants them."""
        stays = self._settled and plan.places == self.plan.places
        self.plan = plan
        logger.info("memory plan: %s", plan)
        if stays:
            return
        for network in (self.models.text_encoder, self.models.image_encoder, self.models.vae):
            move(network.model, self.device if plan.encoders_stay else HOST)
        transformer = self.models.transformer
        for name, child in transformer.named_children():
            if name != "blocks":
                move(child, self.device)
        blocks = transformer.blocks
        plain = blocks.settled() if isinstance(blocks, StreamedBlocks) else blocks
        streams = plan.resident_blocks < len(plain)
        transformer.blocks = StreamedBlocks(plain, plan.resident_blocks, self.device) if streams else plain
        if not streams:
            move(transformer.blocks, self.device)
        self._settled = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def visit(self, network: N) -> Iterator[N]:
        """Have an encoder or the VAE on the device for a while."""
        if self.plan.encoders_stay:
            yield network
            return
        move(network.model, self.device)
        try:
            yield network
        finally:
            move(network.model, HOST)


def move(module: nn.Module, device: torch.device) -> None:
    """Bring a network's parameters and buffers to a device, in place."""
    module.to(device)


def initial_device(config: ModelConfig, precision: Precision, device: torch.device, limit: int | None) -> torch.device:
    """The device when all weights fit there beside their work, else the host, from where a plan takes them."""
    if device.type != "cuda":
        return device
    free = torch.cuda.mem_get_info(device)[0]
    free = free if limit is None else min(free, limit)
    return device if weights_bytes(config, precision) + WORKING_BYTES <= free else HOST


def weights_bytes(config: ModelConfig, precision: Precision) -> int:
    """About how much a model's weights take, before they are read."""
    large_bytes = 1 if precision != "bf16" else getattr(torch, config.dtype).itemsize
    with torch.device("meta"):
        vae = build_vae(config.vae)
        sized = (
            (MultiTalkTransformer(config.transformer), large_bytes),
            (build_text_encoder(config.text_encoder), large_bytes),
            (build_image_encoder(config.image_encoder), getattr(torch, config.image_encoder_dtype).itemsize),
            (vae.encoder, torch.float32.itemsize),
            (vae.decoder, getattr(torch, config.vae_dtype).itemsize),
        )
    return sum(sum(parameter.numel() for parameter in module.parameters()) * each for module, each in sized)


def blocks_within(transformer: MultiTalkTransformer, persistent: int) -> int:
    """How many of the first blocks stay on the device when at most so many of the network's parameters may.

    What is not in a block stays in any case, and counts.
    """
    sizes = [_count(block) for block in transformer.blocks.children()]
    left = persistent - (_count(transformer) - sum(sizes))
    return sum(total <= left for total in accumulate(sizes))


def _count(module: nn.Module) -> int:
    """Numbers in a network; those of quantised layers are buffers."""
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))


def weights_of(models: Models) -> WeightBytes:
    """Bytes of the networks as they are."""
    modules: list[nn.Module] = list(models.transformer.blocks)
    return WeightBytes(
        transformer=bytes_of(models.transformer),
        blocks=tuple(bytes_of(block) for block in modules),
        text_encoder=bytes_of(models.text_encoder.model),
        image_encoder=bytes_of(models.image_encoder.model),
        vae=bytes_of(models.vae.model),
    )
