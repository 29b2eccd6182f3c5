"""Single modules on golden inputs: each function computes every output of its file."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from src.audio_analysis.loudness import normalize
from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.media.rates import SPEECH_RATE
from tests.golden.file import GoldenFile
from wan.checkpoint import keys
from wan.checkpoint.component import Component, load_component
from wan.checkpoint.components import restore_position_ids
from wan.checkpoint.lora import Lora, LoraManager
from wan.checkpoint.quanto import parse_map
from wan.color import lab_stats, match_color
from wan.configs.schema import ImageEncoderConfig, TextEncoderConfig, TransformerConfig, VideoVAEConfig
from wan.modules.image import ImageEncoder, build_image_encoder
from wan.modules.quantized import quantized_layers
from wan.modules.rope import video_rope
from wan.modules.speaker_labels import token_masks
from wan.modules.text import TextEncoder, build_text_encoder
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.modules.vae import VideoVAE, build_vae
from wan.sampling.guidance import MomentumProjection
from wan.sampling.schedule import timesteps
from wan.types import PATCH

Outputs = dict[str, Tensor]
CPU = torch.device("cpu")


def load_library_module(
    build: Callable[[], nn.Module],
    to_file_key: keys.KeyMap,
    tensors: Mapping[str, Tensor],
    ignored_prefixes: tuple[str, ...] = (),
) -> Any:
    """A transformers or diffusers module in float32 from tensors by file key."""
    component = Component(
        build=build, to_file_key=to_file_key, tensors=tensors, dtype=torch.float32, ignored_prefixes=ignored_prefixes
    )
    return load_component(component, CPU)


def transformer_config(golden: GoldenFile) -> TransformerConfig:
    """Sizes from the metadata of `dit_weights`; absent ones are those of the published model."""
    return TransformerConfig(**golden.sibling("dit_weights").config)


def load_transformer(
    golden: GoldenFile, kind: type[MultiTalkTransformer] = MultiTalkTransformer
) -> MultiTalkTransformer:
    """The small transformer of `dit_weights`, in float32."""
    weights = {name: tensor.float() for name, tensor in golden.sibling("dit_weights").tensors.items()}
    model = kind(transformer_config(golden))
    model.load_state_dict(weights)
    return model.eval()


def dit_forward(golden: GoldenFile) -> Outputs:
    """One forward for every `out_<persons>_<timestep>` in the file."""
    return forwards(load_transformer(golden), golden, golden.tensors)


def quanto(golden: GoldenFile) -> Outputs:
    """Forwards on the inputs of `dit_forward` with the quantized blocks of the file."""
    stored = {name[3:]: tensor for name, tensor in golden.tensors.items() if name.startswith("sd.")}
    layers = parse_map(golden.config["map"], "the map")
    replaced = stored.keys() | {f"{layer}.weight" for layer in layers}
    unquantized = {
        name: tensor for name, tensor in golden.sibling("dit_weights").tensors.items() if name not in replaced
    }
    component = Component(
        build=lambda: MultiTalkTransformer(transformer_config(golden)),
        to_file_key=str,
        tensors={**unquantized, **stored},
        dtype=torch.float32,
        quantization_map=layers,
    )
    model = load_component(component, CPU)
    assert len(quantized_layers(model)) == len(layers)
    return forwards(model, golden.sibling("dit_forward"), golden.tensors)


def lora(golden: GoldenFile) -> Outputs:
    """The weights that the file's LoRA changes, merged."""
    model = load_transformer(golden).requires_grad_(False)
    tensors = {name[5:]: tensor for name, tensor in golden.tensors.items() if name.startswith("lora.")}
    LoraManager().set_active(model, [Lora(weights=tensors, strength=golden.config["scale"])])
    return {f"merged.{name}": tensor for name, tensor in model.state_dict().items()}


def forwards(model: MultiTalkTransformer, golden: GoldenFile, names: Iterable[str]) -> Outputs:
    """`out_<persons>_<timestep>` of a model on the inputs of a `dit_forward` file."""
    inputs = {name: tensor.float() for name, tensor in golden.tensors.items()}
    frames, height, width = inputs["x"].shape[1:]
    grid = (frames, height // PATCH, width // PATCH)
    text, image = model.embed_text(inputs["context"][None]), model.embed_image(inputs["clip_fea"])
    outputs = {}
    for name in (name for name in names if name.startswith("out_")):
        persons, timestep = (int(part) for part in name.split("_")[1:])
        speech = model.embed_speech(inputs[f"audio_{persons}"][None])
        masks = token_masks(inputs["ref_target_masks"][None], *grid[1:]) if persons == 2 else None
        context = Context(text=text, image=image, speech=speech, masks=masks)
        time = model.embed_time(torch.tensor([float(timestep)]))
        rotary_emb = video_rope(grid, model.config.head_dim, "cpu")
        outputs[name] = model(inputs["x"][None], inputs["y"], time, rotary_emb, context)[0]
    return outputs


def t5_encoder(golden: GoldenFile) -> Outputs:
    """Each row of `ids` encoded by itself, without padding."""
    sizes = golden.config
    config = TextEncoderConfig(
        vocab_size=sizes["vocab"],
        dim=sizes["dim"],
        head_dim=sizes["dim_attn"] // sizes["num_heads"],
        ffn_dim=sizes["dim_ffn"],
        num_layers=sizes["num_layers"],
        num_heads=sizes["num_heads"],
        num_buckets=sizes["num_buckets"],
    )
    module = load_library_module(lambda: build_text_encoder(config), keys.text_encoder_key, golden.weights)
    encoder = TextEncoder(module, cast(Any, None), golden.tensors["ids"].shape[1])
    outputs = {}
    for name in (name for name in golden.tensors if name.startswith("out_")):
        row = int(name.split("_")[1])
        valid = int(golden.tensors["mask"][row].sum())
        outputs[name] = encoder.encode_ids(golden.tensors["ids"][row : row + 1, :valid])[0]
    return outputs


def clip_visual(golden: GoldenFile) -> Outputs:
    """Preprocessing, and the hidden states before the last block."""
    sizes = golden.config
    config = ImageEncoderConfig(
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        dim=sizes["dim"],
        mlp_dim=sizes["dim"] * sizes["mlp_ratio"],
        num_layers=sizes["num_layers"],
        num_heads=sizes["num_heads"],
    )
    module = load_library_module(
        lambda: build_image_encoder(config),
        keys.image_encoder_key,
        keys.split_qkv(golden.weights),
        ignored_prefixes=(*keys.IMAGE_IGNORED_PREFIXES, f"visual.transformer.{config.num_layers - 1}."),
    )
    encoder = ImageEncoder(restore_position_ids(module))
    frame = golden.tensors["image"][0, :, 0]
    return {"pixels": encoder.preprocess(frame), "out": encoder(frame)}


def load_vae(golden: GoldenFile) -> VideoVAE:
    """The small VAE of `vae`, in float32."""
    sizes = golden.config
    config = VideoVAEConfig(
        dim=sizes["dim"],
        z_dim=sizes["z_dim"],
        dim_mult=tuple(sizes["dim_mult"]),
        num_res_blocks=sizes["num_res_blocks"],
        temporal_downsample=tuple(sizes["temperal_downsample"]),
    )
    names = keys.vae_key(config.num_res_blocks)
    return VideoVAE(load_library_module(lambda: build_vae(config), names, golden.weights))


def vae(golden: GoldenFile) -> Outputs:
    """Encode and decode."""
    model = load_vae(golden)
    decoded = torch.cat(list(model.decode(golden.tensors["z"])), dim=1)
    return {"latent": model.encode(golden.tensors["video"]), "decoded": decoded}


def wav2vec(golden: GoldenFile) -> Outputs:
    """Load a folder in the published layout with the configuration of the file."""
    sizes = {key: value for key, value in golden.config.items() if key not in ("feature_extractor", "seq_len")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(sizes))
        (folder / "preprocessor_config.json").write_text(json.dumps(golden.config["feature_extractor"]))
        save_file(golden.weights, folder / "model.safetensors", metadata={"format": "pt"})
        model = Wav2Vec2Model.from_pretrained(folder, local_files_only=True)
    features = model.extract_features(golden.tensors["waveform"].numpy(), SPEECH_RATE)
    return {"input_values": features, "embedding": model.get_embeddings(features)}


def loudness(golden: GoldenFile) -> Outputs:
    """Normalize to the target loudness."""
    wave = golden.tensors["waveform"].numpy()
    return {"normalised": torch.from_numpy(normalize(wave, SPEECH_RATE, target=golden.config["target"]))}


def schedule(golden: GoldenFile) -> Outputs:
    """Time steps for every `shift<s>_steps<n>`."""
    outputs = {}
    for name in golden.tensors:
        shift, steps = name.removeprefix("shift").split("_steps")
        outputs[name] = timesteps(int(steps), float(shift))
    return outputs


def apg(golden: GoldenFile) -> Outputs:
    """Consecutive calls with one momentum: out_i = cond_i + projected difference."""
    project = MomentumProjection(golden.config["momentum"], golden.config["norm_threshold"])
    calls = sum(name.startswith("out_") for name in golden.tensors)
    return {f"out_{i}": project(golden.tensors[f"diff_{i}"], golden.tensors[f"cond_{i}"]) for i in range(calls)}


def color(golden: GoldenFile) -> Outputs:
    """`out_07` is strength 0.7."""
    source, target = golden.tensors["src"][0], lab_stats(golden.tensors["ref"][0, :, :1])
    names = [name for name in golden.tensors if name.startswith("out_")]
    return {name: match_color(source, target, int(name.removeprefix("out_")) / 10)[None] for name in names}
