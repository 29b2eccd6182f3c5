"""The built-in model's weights as other packages store them make the same video."""

import io
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from app.generator import VideoGenerator
from tests.app.test_cold_start import make_video
from tests.predict.conftest import MODEL
from tests.wan.checkpoint.test_repackaged import save, scale_to_fp8, take_base, take_single, write_gguf
from wan.configs import ModelConfig


@pytest.fixture(scope="module")
def published_video(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return video_of(trained_folder, tmp_path_factory.mktemp("published"))


def video_of(weights: Path, folder: Path) -> bytes:
    generator = VideoGenerator.from_environment({"MULTITALK_MODEL": MODEL, "MODEL_PATH": str(weights)})
    return make_video(generator, folder / "request")


@pytest.fixture
def folder(trained_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_folder, tmp_path / "weights"))


def decode(video: bytes) -> np.ndarray:
    with av.open(io.BytesIO(video), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24").astype(np.float32) for frame in container.decode(video=0)])


def difference(video: bytes, other: bytes) -> float:
    """Root mean square of the difference of the pixels, of 255."""
    return float(np.sqrt(np.square(decode(video) - decode(other)).mean()))


def test_other_names_give_the_same_video(
    puppet: ModelConfig, folder: Path, published_video: bytes, tmp_path: Path
) -> None:
    save(
        folder / "diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors", take_base(puppet, folder), "diffusion_model."
    )
    save(folder / "vae/wan_2.1_vae.safetensors", take_single(puppet, folder, "vae"))
    save(folder / "text_encoders/umt5-xxl-enc-bf16.safetensors", take_single(puppet, folder, "text_encoder"))
    save(folder / "clip_vision/clip_vision_h.safetensors", take_single(puppet, folder, "image_encoder"))
    assert video_of(folder, tmp_path) == published_video


def test_scaled_fp8_gives_nearly_the_same_video(
    puppet: ModelConfig, folder: Path, published_video: bytes, tmp_path: Path
) -> None:
    save(folder / "Wan2_1-I2V-14B-480P_fp8_e4m3fn_scaled_KJ.safetensors", scale_to_fp8(take_base(puppet, folder)))
    assert difference(video_of(folder, tmp_path), published_video) < 12


def test_gguf_gives_nearly_the_same_video(
    puppet: ModelConfig, folder: Path, published_video: bytes, tmp_path: Path
) -> None:
    write_gguf(folder / "wan2.1-i2v-14b-480p-Q8_0.gguf", take_base(puppet, folder), "Q8_0")
    assert difference(video_of(folder, tmp_path), published_video) < 6
