"""What a machine needs for a video: offload plan, memory of GPU and host, disk, time; counted on any machine."""

import importlib.util
from contextlib import nullcontext
from dataclasses import dataclass

from app.cards import Card, chunk_seconds, reference_card
from app.settings import DEFAULT_MODEL
from src.weights.manifest import BUNDLES
from wan.checkpoint import Precision
from wan.checkpoint.empty import empty_models
from wan.chunks import plan_chunks
from wan.configs import WAN_CONFIGS
from wan.configs.schema import ModelConfig
from wan.modules.kernels.dispatch import force_backend
from wan.modules.quantized import assume_fp8_matmul
from wan.offload.estimate import WeightBytes, measure_weights
from wan.offload.plan import (
    MARGIN,
    OffloadPlan,
    OffloadPlanner,
    OutOfMemoryPlanError,
    choose_plan,
    host_bytes,
    smallest,
)
from wan.types import FPS, VideoSize

GB = 10**9
CONTEXT_BYTES = 5 * 10**8
"""GPU memory that CUDA and its libraries take."""
PROCESS_BYTES = 2 * 10**9
"""Host memory of Python and its libraries."""
RESOLUTIONS = {"480p": (448, 896), "720p": (704, 1280)}
PRESET = "fast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to run where: bytes of GPU and host memory."""

    gpu: int
    ram: int
    model: str = DEFAULT_MODEL
    precision: Precision = "bf16"
    resolution: str = "480p"
    num_persons: int = 1
    seconds: float = 10.0

    @property
    def config(self) -> ModelConfig:
        """The model's config."""
        return WAN_CONFIGS[self.model]

    @property
    def size(self) -> VideoSize:
        """A chunk."""
        height, width = RESOLUTIONS[self.resolution]
        return VideoSize(frames=self.config.frame_num, height=height, width=width)

    @property
    def free(self) -> int:
        """Bytes that a process has on the GPU."""
        return self.gpu - CONTEXT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a recipe needs, in bytes and seconds; `plan` is None, and `reason` says why, where it does not fit.

    `stage_peaks`: GPU memory by stage. `host`: host memory, from loading on. `lora_originals`: host memory besides, at
    most, while a LoRA is merged.
    """

    recipe: Recipe
    card: Card
    plan: OffloadPlan | None
    reason: str
    stage_peaks: dict[str, int]
    host: int
    lora_originals: int
    download: int
    converted: int
    seconds: float

    @property
    def faults(self) -> list[str]:
        """What does not fit, one sentence each."""
        faults = [f"GPU memory: {self.reason}"] if self.plan is None else []
        if self.host > self.recipe.ram:
            faults.append(f"host memory: {gigabytes(self.host)} are needed, {gigabytes(self.recipe.ram)} are there")
        return faults


def predict(recipe: Recipe) -> Prediction:
    """Count what a recipe needs, on any machine."""
    config, card = recipe.config, reference_card(recipe.gpu)
    models = empty_models(config, recipe.precision)
    planner, weights = OffloadPlanner(config, models), measure_weights(models)
    with assume_fp8_matmul(True), force_backend("triton") if has_triton() else nullcontext():
        plans = planner.plans(recipe.size, recipe.num_persons)
    plan, reason = None, ""
    try:
        plan = choose_plan(plans, recipe.free, MARGIN)
    except OutOfMemoryPlanError as error:
        reason = str(error)
    shown = plan or smallest(plans)
    total = weights.transformer + weights.text_encoder + weights.image_encoder + weights.vae
    return Prediction(
        recipe=recipe,
        card=card,
        plan=plan,
        reason=reason,
        stage_peaks=planner.stage_peaks(shown, recipe.size, recipe.num_persons),
        host=PROCESS_BYTES + host_bytes(weights, shown),
        lora_originals=lora_originals(recipe),
        download=sum(BUNDLES[name].bytes for name in config.files.bundles),
        converted=total + BUNDLES[config.files.speech].bytes,
        seconds=clip_seconds(recipe, card, shown, weights),
    )


def lora_originals(recipe: Recipe) -> int:
    """Bytes of the linear weights of all blocks except the audio ones: what a LoRA merged into bf16 may change."""
    config = recipe.config.transformer
    per_block = 10 * config.dim**2 + 2 * config.dim * config.ffn_dim
    return 2 * config.num_layers * per_block if recipe.precision == "bf16" else 0


def has_triton() -> bool:
    """Whether the kernels, which a GPU uses, can be imported here; plain PyTorch needs more memory."""
    return importlib.util.find_spec("triton") is not None


def clip_seconds(recipe: Recipe, card: Card, plan: OffloadPlan, weights: WeightBytes) -> float:
    """Seconds for a video with the preset `fast`, which runs every guidance pass of every step."""
    config, preset = recipe.config, recipe.config.presets[PRESET]
    passes = 1 if preset.audio_guide_scale == 1 else 2
    chunks = plan_chunks(round(recipe.seconds * FPS), config.frame_num, config.motion_frame)
    evaluations = preset.sampling_steps * passes
    chunk = chunk_seconds(card, config.transformer, recipe.size, recipe.precision, plan, weights, evaluations)
    return len(chunks) * chunk + (0 if plan.keep_encoders else weights.text_encoder / card.link)


def gigabytes(size: int) -> str:
    """A size in words."""
    return f"{size / GB:.1f} GB"
