"""Configs of the published 14B models and of the small models with the same architecture."""

from dataclasses import replace

from wan.configs.buckets import BUCKETS_480, BUCKETS_720, PUPPET_480, PUPPET_720
from wan.configs.magcache import MAGCACHE, PUPPET_MAGCACHE
from wan.configs.schema import (
    ImageEncoderConfig,
    ModelConfig,
    ModelFiles,
    Preset,
    TextEncoderConfig,
    TransformerConfig,
    VideoVAEConfig,
)

NEGATIVE_PROMPT = (
    "bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, "
    "overall gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, "
    "poorly drawn hands, poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, "
    "still picture, messy background, three legs, many people in the background, walking backwards"
)

# Polynomials fitted by TeaCache (Liu et al. 2024) for Wan2.1-I2V at each size class, highest power first.
TEACACHE: dict[str, tuple[float, ...]] = {
    "480": (2.57151496e5, -3.54229917e4, 1.40286849e3, -1.35890334e1, 1.32517977e-1),
    "720": (8.10705460e3, 2.13393892e3, -3.72934672e2, 1.66203073e1, -4.17769401e-2),
}

TURBO = Preset(text_guide_scale=3.0, audio_guide_scale=3.0, teacache_thresh=0.8, shift={"480": 5.0, "720": 8.0})
QUALITY = Preset(text_guide_scale=5.0, audio_guide_scale=4.0, teacache_thresh=0.3, shift={"480": 7.0, "720": 11.0})
BALANCED = replace(TURBO, sampling_steps=25)
# The step-distillation LoRA (lightx2v) includes text guidance and needs only four steps.
FAST = Preset(
    text_guide_scale=1.0,
    audio_guide_scale=2.0,
    teacache_thresh=0.0,
    shift={"480": 2.0, "720": 2.0},
    sampling_steps=4,
    lora="lightx2v",
)

MULTITALK_14B = ModelConfig(
    name="multitalk-14B",
    description="MultiTalk's audio layers on Wan2.1-I2V-14B-480P",
    transformer=TransformerConfig(
        dim=5120,
        ffn_dim=13824,
        freq_dim=256,
        text_dim=4096,
        in_dim=36,
        out_dim=16,
        num_heads=40,
        num_layers=40,
        text_len=512,
        intermediate_dim=512,
        output_dim=768,
        context_tokens=32,
    ),
    text_encoder=TextEncoderConfig(
        vocab_size=256384, dim=4096, head_dim=64, ffn_dim=10240, num_layers=24, num_heads=64, num_buckets=32
    ),
    image_encoder=ImageEncoderConfig(
        image_size=224, patch_size=14, dim=1280, mlp_dim=5120, num_layers=32, num_heads=16
    ),
    vae=VideoVAEConfig(dim=96),
    files=ModelFiles(base="Wan2.1-I2V-14B-480P", audio="MeiGen-MultiTalk", speech="chinese-wav2vec2-base"),
    buckets={"480": BUCKETS_480, "720": BUCKETS_720},
    teacache_coefficients=TEACACHE,
    magcache_ratios=MAGCACHE,
    turbo=TURBO,
    presets={"quality": QUALITY, "balanced": BALANCED, "fast": FAST},
    frame_num=81,
    motion_frame=25,
    negative_prompt=NEGATIVE_PROMPT,
    needs_gpu=True,
    dtype="bfloat16",
    image_encoder_dtype="float16",
    vae_dtype="bfloat16",
)


MOTION_FRAMES = 9
"""Overlap of InfiniteTalk's chunks, in frames."""


def infinitetalk(config: ModelConfig, variant: str) -> ModelConfig:
    """The config with InfiniteTalk's weights; `variant` is single (one person) or multi."""
    files = replace(
        config.files,
        audio="InfiniteTalk",
        audio_bundle=f"InfiniteTalk-{variant}",
        audio_weights=f"{variant}/infinitetalk.safetensors",
        quantized=f"quant_models/infinitetalk_{variant}_{{precision}}.safetensors",
    )
    return replace(
        config,
        name=f"infinitetalk-14B-{variant}",
        description=f"InfiniteTalk's audio layers ({variant}) on Wan2.1-I2V-14B-480P",
        files=files,
        mode="infinitetalk",
        motion_frame=MOTION_FRAMES,
        max_persons=1 if variant == "single" else config.max_persons,
    )


INFINITETALK_SINGLE_14B = infinitetalk(MULTITALK_14B, "single")
INFINITETALK_MULTI_14B = infinitetalk(MULTITALK_14B, "multi")

# Fitted by `python -m benchmarks.calibration.teacache`.
PUPPET_TEACACHE = (3.7578e4, -4.49443e3, 1.93e2, 3.79574e-1, -1.74692e-3)
PUPPET_QUALITY = Preset(
    text_guide_scale=3.0, audio_guide_scale=2.0, teacache_thresh=0.1, shift={"480": 3.0, "720": 3.0}
)
PUPPET_TURBO = replace(PUPPET_QUALITY, text_guide_scale=2.0, teacache_thresh=0.2)
# The LoRA is distilled with guidance: each step is one pass.
PUPPET_FAST = Preset(
    text_guide_scale=1.0,
    audio_guide_scale=1.0,
    teacache_thresh=0.0,
    shift={"480": 2.0, "720": 2.0},
    sampling_steps=4,
    lora="distilled",
)

MULTITALK_PUPPET = ModelConfig(
    name="multitalk-puppet",
    description="the same architecture, small enough for a laptop's processor",
    transformer=TransformerConfig(
        dim=192,
        ffn_dim=512,
        freq_dim=64,
        text_dim=64,
        in_dim=36,
        out_dim=16,
        num_heads=6,
        num_layers=6,
        text_len=128,
        intermediate_dim=128,
        output_dim=64,
        context_tokens=8,
        audio_layers=4,
        audio_dim=64,
        image_tokens=17,
        image_dim=64,
    ),
    text_encoder=TextEncoderConfig(
        vocab_size=384, dim=64, head_dim=16, ffn_dim=128, num_layers=2, num_heads=4, num_buckets=32
    ),
    image_encoder=ImageEncoderConfig(image_size=56, patch_size=14, dim=64, mlp_dim=256, num_layers=3, num_heads=4),
    vae=VideoVAEConfig(
        dim=16,
        num_res_blocks=1,
        latents_mean=(
            -0.495,
            -0.861,
            0.09,
            0.208,
            0.862,
            -0.339,
            -0.244,
            -0.577,
            0.504,
            1.065,
            -0.132,
            -0.029,
            0.615,
            0.085,
            0.127,
            -0.356,
        ),
        latents_std=(
            2.648,
            4.113,
            2.17,
            4.362,
            3.007,
            2.023,
            2.146,
            3.066,
            2.414,
            3.909,
            4.107,
            1.456,
            2.907,
            3.622,
            4.237,
            1.606,
        ),
    ),
    files=ModelFiles(base="Wan2.1-I2V-puppet", audio="MultiTalk-puppet", speech="wav2vec2-puppet"),
    buckets={"480": PUPPET_480, "720": PUPPET_720},
    teacache_coefficients={"480": PUPPET_TEACACHE, "720": PUPPET_TEACACHE},
    magcache_ratios={"480": PUPPET_MAGCACHE, "720": PUPPET_MAGCACHE},
    turbo=PUPPET_TURBO,
    presets={
        "quality": PUPPET_QUALITY,
        "balanced": replace(PUPPET_TURBO, sampling_steps=25),
        "fast": PUPPET_FAST,
    },
    frame_num=33,
    motion_frame=9,
    negative_prompt="blurred, distorted, flickering",
    needs_gpu=False,
    dtype="float32",
    image_encoder_dtype="float32",
    built_in="multitalk-puppet",
)
# The same weights: they are trained with both kinds of conditioning.
INFINITETALK_PUPPET = replace(
    MULTITALK_PUPPET,
    name="infinitetalk-puppet",
    description="the small model, conditioned as InfiniteTalk is",
    mode="infinitetalk",
    motion_frame=MOTION_FRAMES,
)
