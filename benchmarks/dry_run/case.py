"""One generation of the 14B model on a fake card: the pipeline is built as the service does, and streams a clip."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from string import ascii_lowercase
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks.dry_run.fake_cuda import CUDA, Card, fake_cuda
from benchmarks.dry_run.watch import DeviceWatch
from benchmarks.gpu.networks import random_on
from training.components import build_tokenizer
from wan.checkpoint import Precision
from wan.checkpoint.empty import MakeTensor, empty_models
from wan.checkpoint.loading import TensorSpec
from wan.checkpoint.lora import Lora
from wan.conditioning.protocols import VideoSource
from wan.conditioning.request import Request
from wan.configs import WAN_CONFIGS
from wan.configs.schema import ModelConfig
from wan.modules import attention, quantized
from wan.modules.kernels import dispatch
from wan.multitalk import MultiTalkPipeline
from wan.offload.estimate import HOST
from wan.offload.manager import initial_plan
from wan.offload.plan import OffloadPlan
from wan.progress import Progress
from wan.sampling.denoise import Denoiser
from wan.sampling.options import SamplingOptions, resolve_options
from wan.types import VideoSize

H100 = Card(name="H100 80GB", free=79 * 10**9)
MakeLoras = Callable[[ModelConfig, Precision], list[Lora]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What to generate on which card. `options` are arguments of `resolve_options`.

    `num_layers`: blocks of the transformer, of which all that matters to a check repeats; None for all 40 and the full
    encoders.
    `num_failures`: how often the second denoising step runs out of memory.
    """

    model: str = "multitalk-14B"
    card: Card = H100
    precision: Precision = "bf16"
    num_persons: int = 1
    size: tuple[int, int] = (448, 896)
    num_frames: int = 16
    num_layers: int | None = 2
    memory_limit: int | None = None
    num_persistent_params: int | None = None
    num_failures: int = 0
    video: VideoSource | None = None
    make_loras: MakeLoras | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        """The model's config with that many layers."""
        config = WAN_CONFIGS[self.model]
        if self.num_layers is None:
            return config
        return replace(
            config,
            transformer=replace(config.transformer, num_layers=self.num_layers),
            text_encoder=replace(config.text_encoder, num_layers=self.num_layers),
            image_encoder=replace(config.image_encoder, num_layers=self.num_layers + 1),
        )

    def sampling_options(self) -> SamplingOptions:
        """Turbo at the size class of `size`, with `options`."""
        size_class = "720" if self.size[0] * self.size[1] > 640 * 640 else "480"
        values = {"turbo": True, "seed": 1, "max_frames_num": self.num_frames, **self.options}
        return resolve_options(self.config, size_class=size_class, **values)

    def request(self) -> Request:
        """A black image, a prompt, and speech of every person."""
        height, width = self.size
        speech = torch.zeros(self.num_frames, self.config.transformer.audio_layers, self.config.transformer.audio_dim)
        image = Image.fromarray(np.zeros((height, width, 3), np.uint8))
        return Request(image=image, speech=(speech,) * self.num_persons, prompt="two people talk", video=self.video)


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a case did: the plan that it ended with, that plan's predicted peak of each stage, and what was counted.

    Stages: `load`, `prepare`, and `condition`, `embed`, `denoise`, `decode` followed by the number of the chunk, from
    0. `denoise` begins with the first call of the denoiser, `embed` makes what that needs.
    """

    case: Case
    plan: OffloadPlan
    predicted: dict[str, int]
    watch: DeviceWatch
    num_frames: int

    def peak(self, *stages: str, first_chunk: int = 0) -> int:
        """Maximum of the live bytes on the device in stages whose names begin so, from a chunk on."""
        return max(
            peak
            for stage, peak in self.watch.peaks.items()
            if stage.startswith(stages) and int(stage.lstrip(ascii_lowercase) or 0) >= first_chunk
        )

    def events(self, stage: str) -> dict[str, int]:
        """Copies, host reads and new host tensors in all stages whose names begin so."""
        found: dict[str, int] = {}
        for (name, what), count in self.watch.events.items():
            if name.startswith(stage):
                found[what] = found.get(what, 0) + count
        return found


def dry_run(case: Case) -> DryRun:
    """Run a case. Raises what a GPU would: tensors on different devices, wrong dtypes, out of memory."""
    options, request = case.sampling_options(), case.request()
    with ExitStack() as stack:
        for function in ("wan.offload.plan.estimate_memory", "benchmarks.dry_run.case.build_tokenizer"):
            stack.enter_context(_without_modes(function))
        watch = stack.enter_context(fake_cuda(case.card))
        stack.enter_context(_forget_device())
        stack.enter_context(torch.inference_mode())
        pipeline = load(case)
        if case.make_loras is not None:
            pipeline.use_loras(case.make_loras(case.config, case.precision))
        stack.enter_context(_follow_steps(watch, case.num_failures))
        watch.stage = "prepare"
        num_frames = 0
        for frames_CFHW in pipeline.stream(request, options, lambda progress: follow(watch, progress)):
            assert frames_CFHW.device == CUDA
            num_frames += frames_CFHW.shape[1]
            del frames_CFHW
        plan, (height, width) = pipeline.offload.plan, case.size
        size = VideoSize(frames=options.frame_num, height=height, width=width)
        predicted = pipeline.offload.planner.stage_peaks(plan, size, case.num_persons)
    return DryRun(case=case, plan=plan, predicted=predicted, watch=watch, num_frames=num_frames)


def load(case: Case) -> MultiTalkPipeline:
    """Random weights where `MultiTalkPipeline` would load them, and the pipeline."""
    config, limits = case.config, (case.memory_limit, case.num_persistent_params)
    with _disable_current_modes():
        plan = initial_plan(config, case.precision, CUDA, *limits)
    assert plan is not None
    others = CUDA if plan.keep_encoders else HOST
    make = blocks_on_host(plan.num_resident_blocks)
    models = empty_models(config, case.precision, random_on(others), build_tokenizer(config), make)
    quantized.supports_fp8_matmul(CUDA)  # decided on the device, then read for the meta device
    return MultiTalkPipeline.from_models(config, models, *limits, CUDA)


def blocks_on_host(num_resident: int) -> MakeTensor:
    """The transformer's weights: those of the blocks from `num_resident` on in host memory."""

    def make(name: str, spec: TensorSpec) -> torch.Tensor:
        parts = name.split(".")
        on_host = parts[0] == "blocks" and int(parts[1]) >= num_resident
        return random_on(HOST if on_host else CUDA)(name, spec)

    return make


def follow(watch: DeviceWatch, progress: Progress) -> None:
    """Set the stage that follows the one that has just ended."""
    chunk = progress.chunk - 1
    match progress.stage:
        case "prepare":
            stage = "condition"
        case "condition":
            stage = "embed"
        case "denoise":
            stage = "denoise" if progress.step < progress.num_steps else "decode"
        case _:
            stage, chunk = "condition", chunk + 1
    watch.stage = f"{stage}{chunk}"


@contextmanager
def _without_modes(function: str) -> Iterator[None]:
    """Run a function, given by its path, as without a fake GPU."""
    module, _, name = function.rpartition(".")
    real = getattr(importlib.import_module(module), name)

    def run(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return real(*args, **kwargs)

    with mock.patch(function, run):
        yield


@contextmanager
def _follow_steps(watch: DeviceWatch, num_failures: int) -> Iterator[None]:
    """The first denoising step sets the stage; the second runs out of memory that often."""
    real, left = Denoiser.__call__, [None] * num_failures

    def call(self: Denoiser, x_CTHW: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        on_device = x_CTHW.device == CUDA  # memory is estimated on the meta device
        if on_device:
            watch.stage = watch.stage.replace("embed", "denoise")
        velocities = real(self, x_CTHW, step)
        if step == 1 and left and on_device:
            left.pop()
            raise torch.OutOfMemoryError("CUDA out of memory (raised by the dry run)")
        return velocities

    with mock.patch.object(Denoiser, "__call__", call):
        yield


@contextmanager
def _forget_device() -> Iterator[None]:
    """Nothing is known of a CUDA device from before, and nothing of this one remains."""
    quantized.supports_fp8_matmul.cache_clear()
    try:
        with (
            mock.patch.object(dispatch, "_verified", set()),
            mock.patch.dict(attention._chosen, clear=True),
            mock.patch.dict(attention._names, clear=True),
            mock.patch.object(attention, "_failed", set()),
        ):
            yield
    finally:
        quantized.supports_fp8_matmul.cache_clear()
