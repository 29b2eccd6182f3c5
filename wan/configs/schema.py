"""Dataclasses of the model configs: network sizes, file names, presets."""

from dataclasses import dataclass, field
from typing import Literal

BucketTable = dict[str, tuple[int, int]]
"""Height / width ratio, written as in the published tables, to (height, width) in pixels."""

Mode = Literal["multitalk", "infinitetalk"]
"""Conditioning of a chunk that continues another: the last frames (MultiTalk), or a frame of the source with the last
frames kept clean in the latent (InfiniteTalk). Only InfiniteTalk supports a source video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Sizes of the video transformer, named as in the published `config.json`."""

    dim: int
    ffn_dim: int
    freq_dim: int
    text_dim: int
    in_dim: int
    out_dim: int
    num_heads: int
    num_layers: int
    text_len: int
    intermediate_dim: int
    output_dim: int
    context_tokens: int
    audio_window: int = 5
    audio_layers: int = 12
    audio_dim: int = 768
    image_tokens: int = 257
    image_dim: int = 1280
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderConfig:
    """Sizes of the UMT5 encoder (Chung et al. 2023)."""

    vocab_size: int
    dim: int
    head_dim: int
    ffn_dim: int
    num_layers: int
    num_heads: int
    num_buckets: int
    max_distance: int = 128
    eps: float = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEncoderConfig:
    """Sizes of the CLIP vision tower (Radford et al. 2021) as published, before its last block is dropped."""

    image_size: int
    patch_size: int
    dim: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    eps: float = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoVAEConfig:
    """Sizes of the causal video VAE of Wan2.1.

    `latents_mean` and `latents_std`: statistics of the latent channels, None for the published ones.
    """

    dim: int
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """Folders (bundles) and files of a model below the weights folder.

    `audio_bundle` is the manifest's name of the bundle in folder `audio`, if it differs.
    """

    base: str
    audio: str
    speech: str
    audio_weights: str = "multitalk.safetensors"
    text_encoder: str = "models_t5_umt5-xxl-enc-bf16.pth"
    image_encoder: str = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    vae: str = "Wan2.1_VAE.pth"
    tokenizer: str = "google/umt5-xxl"
    audio_bundle: str = ""
    quantized: str = "quant_models/dit_model_{precision}.safetensors"
    text_encoder_quantized: str = "quant_models/t5_{precision}.safetensors"

    @property
    def bundles(self) -> tuple[str, str, str]:
        """Names of the bundles that the model needs; those of the built-in model are not in the manifest."""
        return self.base, self.audio_bundle or self.audio, self.speech


@dataclass(frozen=True, slots=True, kw_only=True)
class MagCacheRatios:
    """Mean residual magnitude of the blocks relative to the step before, recorded while sampling.

    The len(ratios) + 1 steps were at linearly spaced times from 1000 to `last_time`, shifted by `shift`.
    """

    ratios: tuple[float, ...]
    shift: float
    last_time: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Named sampling values; `shift` is by size class, `lora` the bundle of the LoRA that the preset needs."""

    text_guide_scale: float
    audio_guide_scale: float
    teacache_thresh: float
    shift: dict[str, float]
    sampling_steps: int = 40
    lora: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One entry of WAN_CONFIGS.

    `max_persons`: number of speakers that the weights distinguish. `built_in`: folder of a model shipped with the code.
    `magcache_ratios`: calibrated size classes only. `vae_dtype`: dtype of the VAE decoder; its encoder is float32.
    """

    name: str
    transformer: TransformerConfig
    text_encoder: TextEncoderConfig
    image_encoder: ImageEncoderConfig
    vae: VideoVAEConfig
    files: ModelFiles
    buckets: dict[str, BucketTable]
    teacache_coefficients: dict[str, tuple[float, ...]]
    magcache_ratios: dict[str, MagCacheRatios]
    turbo: Preset
    presets: dict[str, Preset]
    frame_num: int
    motion_frame: int
    negative_prompt: str
    needs_gpu: bool
    dtype: str
    image_encoder_dtype: str
    vae_dtype: str = "float32"
    mode: Mode = "multitalk"
    max_persons: int = 2
    built_in: str = ""
    description: str = field(default="")
