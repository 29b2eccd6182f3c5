"""Moves the networks to the devices that an offload plan assigns them."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor, nn

from wan.checkpoint import Models, Precision
from wan.configs.schema import ModelConfig
from wan.modules.image import ImageEncoder
from wan.modules.text import TextEncoder
from wan.modules.transformer import MultiTalkTransformer
from wan.modules.vae import VideoVAE
from wan.offload.estimate import HOST, META, estimate_memory, estimate_weights
from wan.offload.plan import MARGIN, OffloadPlan, OffloadPlanner, enumerate_plans, fits, smallest
from wan.offload.streaming import OffloadedModule, StreamedBlocks
from wan.types import VideoSize

logger = logging.getLogger(__name__)

N = TypeVar("N", TextEncoder, ImageEncoder, VideoVAE)


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
        self._offloaded: dict[TextEncoder | ImageEncoder | VideoVAE, OffloadedModule] = {}
        self._applied = transformer.device == device == HOST or all(each.device == device for each in self._tensors())
        self.place_transformer: Callable[[int], None] = partial(place_transformer, transformer, device=device)

    @property
    def offload_device(self) -> torch.device:
        """Where the VAE keeps its feature cache and the decoded frames."""
        return HOST if self.plan.offload_vae_cache else self.device

    def plan_for(self, size: VideoSize, num_persons: int) -> None:
        """Choose the plan of a request and apply it. Raises `OutOfMemoryPlanError` if none fits."""
        budget = self.budget()
        if budget is not None or self.planner.max_resident_blocks is not None:
            current = self.plan if self._applied else None
            self.apply(self.planner.estimate_and_choose(size, num_persons, budget, current))

    def next_smaller(self, size: VideoSize, num_persons: int) -> OffloadPlan | None:
        """The plan to try after an out-of-memory error; None if there is none that needs noticeably less."""
        return self.planner.next_smaller(self.plan, size, num_persons)

    def budget(self) -> int | None:
        """Bytes that the networks and a request may use on the device; None where nothing is planned.

        What this process has allocated there besides the networks, the speech encoder for one, is not available.
        """
        if self.device.type != "cuda":
            return self.memory_limit
        available = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
        available = available if self.memory_limit is None else min(available, self.memory_limit)
        others = torch.cuda.memory_allocated(self.device) - self._bytes_on_device()
        return available - max(others, 0)

    def _bytes_on_device(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors() if tensor.device == self.device)

    def _tensors(self) -> Iterator[Tensor]:
        for network in (self.models.transformer, *(network.model for network in self._encoders)):
            yield from network.parameters()
            yield from network.buffers()

    @property
    def _encoders(self) -> tuple[TextEncoder, ImageEncoder, VideoVAE]:
        return self.models.text_encoder, self.models.image_encoder, self.models.vae

    @torch.inference_mode(False)  # inference tensors could not be modified by a LoRA outside inference mode
    def apply(self, plan: OffloadPlan) -> None:
        """Move the networks to where `plan` keeps them: what leaves the device first, and only what is elsewhere."""
        unchanged = self._applied and plan.key == self.plan.key
        self.plan = plan
        logger.info("memory plan: %s", plan)
        if unchanged:
            return
        if not plan.keep_encoders:
            self._offload_encoders()
        self.place_transformer(plan.num_resident_blocks)
        if plan.keep_encoders:
            for network in self._encoders:
                move(network.model, self.device)
            self._offloaded.clear()
        self._applied = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _offload_encoders(self) -> None:
        for network in self._encoders:
            if network not in self._offloaded:
                self._offloaded[network] = OffloadedModule(network.model, page_lock=self.device.type == "cuda")

    @contextmanager
    def on_device(self, network: N) -> Iterator[N]:
        """An encoder or the VAE on the device; one that the plan offloads is there only within this context."""
        offloaded = self._offloaded.get(network)
        with nullcontext() if offloaded is None else offloaded.on_device(self.device):
            yield network


@torch.inference_mode(False)
def place_transformer(transformer: MultiTalkTransformer, num_resident_blocks: int, device: torch.device) -> None:
    """Move all but the blocks after the first `num_resident_blocks` to a device; those are streamed to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # an abandoned iteration may still read a block in host memory
    for name, child in transformer.named_children():
        if name != "blocks":
            move(child, device)
    blocks = transformer.blocks
    if isinstance(blocks, StreamedBlocks):
        blocks.set_num_resident(num_resident_blocks)
        if num_resident_blocks == len(blocks):
            transformer.blocks = blocks.unwrap()
    elif num_resident_blocks < len(blocks):
        transformer.blocks = StreamedBlocks(blocks, num_resident_blocks, device)
    else:
        move(blocks, device)


def move(module: nn.Module, device: torch.device) -> None:
    """Move parameters and buffers to a device, in place."""
    module.to(device)


def initial_plan(
    config: ModelConfig,
    precision: Precision,
    device: torch.device,
    memory_limit: int | None,
    num_persistent_params: int | None,
) -> OffloadPlan | None:
    """The plan of a request of the first size class, so that weights are loaded to where it keeps them.

    None without a GPU. The limits are those of `OffloadManager`.
    """
    if device.type != "cuda":
        return None
    resident = None
    if num_persistent_params is not None:
        with META:
            resident = max_resident_blocks(MultiTalkTransformer(config.transformer), num_persistent_params)
    height, width = max(next(iter(config.buckets.values())).values(), key=math.prod)
    size = VideoSize(frames=config.frame_num, height=height, width=width)
    estimate = estimate_memory(config, size, config.max_persons)
    plans = enumerate_plans(estimate_weights(config, precision), estimate, resident)
    free = torch.cuda.mem_get_info(device)[0]
    free = free if memory_limit is None else min(free, memory_limit)
    return next((plan for plan in plans if fits(plan, free, MARGIN)), smallest(plans))


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
