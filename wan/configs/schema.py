"""What a model is made of: sizes, file names, presets. Every field is data; an unknown one is a TypeError."""

from dataclasses import dataclass, field
from typing import Literal

BucketTable = dict[str, tuple[int, int]]
"""Height / width ratio, as the published tables print it, to (height, width) in pixels."""

Mode = Literal["multitalk", "infinitetalk"]
"""What the weights were trained to continue from: the last frames, or a source's frame with the last frames in the
noise. Only the latter can be shown a video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Sizes of the video transformer; the names are those of the published `config.json`."""

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

    `latents_mean` and `latents_std` None stand for the published statistics of the latent channels.
    """

    dim: int
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where the parts of a model lie below the folder of weights; checkpoints.md calls these bundles.

    `audio_bundle` is the manifest's name of `audio`, where it is another one.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MagCacheRatios:
    """Mean magnitude of what the blocks add to a token, by that of the step before; recorded while sampling.

    The steps, one more than `ratios`, were at linear times from 1000 to `last_time`, bent by `shift`.
    """

    ratios: tuple[float, ...]
    shift: float
    last_time: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Sampling values under one name; `shift` is by size class, `lora` the name of the bundle it was made for."""

    text_guide_scale: float
    audio_guide_scale: float
    teacache_thresh: float
    shift: dict[str, float]
    sampling_steps: int = 40
    lora: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One entry of WAN_CONFIGS.

    `persons` is how many the weights tell apart; `built_in` the folder of a model that comes with the code;
    `magcache_ratios` lacks the size classes that nobody has calibrated; `vae_dtype` is that of the VAE's decoder, whose
    encoder stays float32.
    """

    name: str
    transformer: TransformerConfig
    text_encoder: TextEncoderConfig
    image_encoder: ImageEncoderConfig
    vae: VideoVAEConfig
    files: Files
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
    persons: int = 2
    built_in: str = ""
    description: str = field(default="")
