"""The speech encoder matches the reference, and loads from every kind of folder."""

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
import transformers

from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from tests.golden.run import relative_error

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_codevectors_per_group": 4,
    "codevector_dim": 8,
    "proj_codevector_dim": 8,
}


@pytest.fixture(scope="module")
def config() -> transformers.Wav2Vec2Config:
    return transformers.Wav2Vec2Config(**TINY)


@pytest.fixture(scope="module")
def model(config: transformers.Wav2Vec2Config) -> Wav2Vec2Model:
    torch.manual_seed(0)
    return Wav2Vec2Model(config).eval()  # type: ignore[no-untyped-call]


def noise(samples: int = 32000, rate: int = 16000) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(samples * rate // 16000).astype(np.float32)


@pytest.mark.parametrize("samples", [640, 1279, 1280, 16000, 16639, 51200])
def test_hidden_states_of_every_layer_and_frame(model: Wav2Vec2Model, samples: int) -> None:
    embedding = model.get_embeddings(model.extract_features(noise(samples), 16000))
    assert embedding.shape == (samples * 25 // 16000, 3, 16)
    assert embedding.dtype == torch.float32
    assert not embedding.requires_grad
    assert torch.isfinite(embedding).all()


def test_last_layer_equals_transformers_at_its_own_frame_rate(
    model: Wav2Vec2Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpolation to the number of frames that the convolutions give changes nothing."""
    features_1N = model.extract_features(noise(16000), 16000)
    with torch.no_grad():
        theirs_FD = model(features_1N).last_hidden_state[0]
    monkeypatch.setattr("src.audio_analysis.wav2vec2.FPS", len(theirs_FD))
    assert relative_error(model.get_embeddings(features_1N)[:, -1], theirs_FD) < 2e-6


def test_less_than_one_frame_is_refused(model: Wav2Vec2Model) -> None:
    with pytest.raises(ValueError, match="639 samples of audio; needs at least 640"):
        model.get_embeddings(torch.zeros(1, 639))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_features_have_zero_mean_and_unit_variance(model: Wav2Vec2Model, kind: type) -> None:
    features_1N = model.extract_features(kind(3 + noise()), 16000)
    assert features_1N.shape == (1, 32000)
    assert features_1N.dtype == torch.float32
    assert abs(float(features_1N.mean())) < 1e-4
    assert float(features_1N.var()) == pytest.approx(1, abs=1e-3)


def test_stereo_is_mixed_down(model: Wav2Vec2Model) -> None:
    left_N, right_N = noise(), np.flip(noise())
    both_1N = model.extract_features(np.stack([left_N, right_N]), 16000)
    torch.testing.assert_close(both_1N, model.extract_features((left_N + right_N) / 2, 16000))


def test_other_sample_rates_are_resampled(model: Wav2Vec2Model) -> None:
    high_N = noise(rate=48000)
    low_N = librosa.resample(high_N, orig_sr=48000, target_sr=16000, res_type="soxr_hq")
    torch.testing.assert_close(model.extract_features(high_N, 48000), model.extract_features(low_N, 16000))


def test_three_dimensional_audio_is_refused(model: Wav2Vec2Model) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3\)"):
        model.extract_features(np.zeros((1, 2, 3)), 16000)


def test_stable_layer_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="do_stable_layer_norm"):
        Wav2Vec2Model(transformers.Wav2Vec2Config(**TINY, do_stable_layer_norm=True))


def write_folder(path: Path, model: Wav2Vec2Model, *, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """Save as published: as safetensors, or the given weights as `pytorch_model.bin`."""
    model.preprocessor.save_pretrained(path)
    if weights is None:
        model.save_pretrained(path)
    else:
        model.config.save_pretrained(path)
        torch.save(weights, path / "pytorch_model.bin")
    return path


def pretraining_weights(model: Wav2Vec2Model) -> dict[str, torch.Tensor]:
    """The checkpoint of pre-training: a prefix, more heads, and weight norm's older names."""
    whole = transformers.Wav2Vec2ForPreTraining(model.config)
    whole.wav2vec2.load_state_dict(model.state_dict())
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = dict(whole.state_dict())
    for name in list(weights):
        for new, old in names.items():
            if name.endswith(new):
                weights[name.replace(new, old)] = weights.pop(name)
    return weights


@pytest.mark.parametrize("kind", ["safetensors", "bin", "pretraining", "half"])
def test_loading_a_folder(tmp_path: Path, model: Wav2Vec2Model, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    half = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    weights = {"safetensors": None, "bin": dict(model.state_dict()), "half": half}
    saved = pretraining_weights(model) if kind == "pretraining" else weights[kind]
    folder = write_folder(tmp_path / "wav2vec2", model, weights=saved)
    caplog.clear()
    transformers.logging.enable_propagation()
    loaded = Wav2Vec2Model.from_pretrained(str(folder), local_files_only=True)
    transformers.logging.disable_propagation()
    assert caplog.text == ""
    assert not loaded.training
    assert loaded.dtype == torch.float32
    features_1N = loaded.extract_features(noise(), 16000)
    theirs = model.get_embeddings(model.extract_features(noise(), 16000))
    assert relative_error(loaded.get_embeddings(features_1N), theirs) < (2e-2 if kind == "half" else 1e-7)


def test_preprocessor_config_decides_about_normalization(tmp_path: Path, model: Wav2Vec2Model) -> None:
    folder = write_folder(tmp_path, model)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    loaded = Wav2Vec2Model.from_pretrained(folder, local_files_only=True)
    np.testing.assert_array_equal(loaded.extract_features(noise(), 16000)[0].numpy(), noise())


def test_folder_of_another_sample_rate_is_refused(tmp_path: Path, model: Wav2Vec2Model) -> None:
    folder = write_folder(tmp_path, model)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    with pytest.raises(ValueError, match="8000 Hz; 16000 Hz is needed"):
        Wav2Vec2Model.from_pretrained(folder, local_files_only=True)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        Wav2Vec2Model.from_pretrained(tmp_path / "nowhere", local_files_only=True)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_missing_and_unexpected_weights_are_listed(tmp_path: Path, model: Wav2Vec2Model, change: str) -> None:
    weights = dict(model.state_dict())
    name = "encoder.layers.1.attention.k_proj.bias"
    if change == "missing":
        del weights[name]
    else:
        name = "encoder.layers.1.attention.k_proj.scale"
        weights[name] = torch.zeros(1)
    folder = write_folder(tmp_path, model, weights=weights)
    with pytest.raises(ValueError, match=f"{change}: {name}"):
        Wav2Vec2Model.from_pretrained(folder, local_files_only=True)
