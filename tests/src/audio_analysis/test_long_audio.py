"""Segmented embeddings approximate those of the whole file and do not depend on its length."""

import numpy as np
import pytest
import torch
from torch import Tensor

from src.audio_analysis import long_audio
from src.audio_analysis.long_audio import LazySpeechEmbeddings, SegmentSize, embed_speech
from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.media.audio.convert import to_mono
from src.media.audio.read import read_audio
from src.serving.request_warnings import collect_warnings
from tests.conftest import ROOT
from tests.golden.run import relative_error
from wan.chunks import plan_chunks
from wan.conditioning.speech import speech_windows

RATE = 16_000
SMALL = SegmentSize(core=50, context=25)


@pytest.fixture(scope="module")
def model() -> Wav2Vec2Model:
    folder = ROOT / "models" / "multitalk-puppet" / "wav2vec2-puppet"
    return Wav2Vec2Model.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """Two alternating voices, 16 seconds."""
    paths = [ROOT / "examples" / f"voice_{name}.flac" for name in ("anna", "ben")]
    parts = [to_mono(read_audio(path, name="voice", max_seconds=60), RATE)[: 4 * RATE] for path in paths]
    return np.concatenate(parts * 4)[: 16 * RATE]


def states(embeddings: LazySpeechEmbeddings) -> Tensor:
    return embeddings[torch.arange(len(embeddings))]


def whole(model: Wav2Vec2Model, waveform_N: np.ndarray) -> Tensor:
    return model.get_embeddings(model.extract_features(waveform_N, RATE))


def test_one_segment_equals_the_whole_file(model: Wav2Vec2Model, voice: np.ndarray) -> None:
    embeddings = LazySpeechEmbeddings(model, voice, SegmentSize(core=1000))
    expected = whole(model, voice)
    assert embeddings.shape == expected.shape
    assert relative_error(states(embeddings), expected) < 1e-3


def test_segments_approximate_the_whole_file(model: Wav2Vec2Model, voice: np.ndarray) -> None:
    assert (
        relative_error(
            states(LazySpeechEmbeddings(model, voice, SegmentSize(core=100, context=100))), whole(model, voice)
        )
        < 0.2
    )


def test_states_do_not_depend_on_later_audio(model: Wav2Vec2Model, voice: np.ndarray) -> None:
    shorter, longer = (
        LazySpeechEmbeddings(model, voice[: seconds * RATE], SMALL, stats_seconds=5) for seconds in (9, 16)
    )
    ended = 9 * 25 - SMALL.context - 25  # in the last segment whose context does not reach the end
    torch.testing.assert_close(states(longer)[:ended], states(shorter)[:ended])


def test_leading_silence_does_not_change_the_normalization(model: Wav2Vec2Model, voice: np.ndarray) -> None:
    late = LazySpeechEmbeddings(model, np.concatenate([np.zeros(10 * RATE, np.float32), voice]), SMALL)
    early = LazySpeechEmbeddings(model, voice, SMALL)
    torch.testing.assert_close(states(late)[300:], states(early)[50:])
    assert torch.isfinite(states(LazySpeechEmbeddings(model, np.zeros(5 * RATE, np.float32), SMALL))).all()


def test_lazy_embeddings_are_indexed_like_a_tensor(model: Wav2Vec2Model, voice: np.ndarray) -> None:
    embeddings = LazySpeechEmbeddings(model, voice, SMALL)
    tensor = states(embeddings)
    for chunk in plan_chunks(len(embeddings), 33, 9):
        assert torch.equal(speech_windows((embeddings,), chunk, 5), speech_windows((tensor,), chunk, 5))
        assert len(embeddings.cache) <= 2


def test_short_audio_is_encoded_at_once(
    model: Wav2Vec2Model, voice: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torch.equal(embed_speech(model, voice), whole(model, voice))  # type: ignore[arg-type]
    monkeypatch.setattr(long_audio, "MAX_WHOLE_SECONDS", 15)
    assert isinstance(embed_speech(model, voice), LazySpeechEmbeddings)


def test_audio_is_encoded_in_segments_where_memory_is_short(
    model: Wav2Vec2Model, voice: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory (raised by the test)")

    expected = whole(model, voice)
    monkeypatch.setattr(model, "get_embeddings", run_out)
    with collect_warnings() as warnings:
        embeddings = embed_speech(model, voice)
    assert isinstance(embeddings, LazySpeechEmbeddings)
    assert relative_error(states(embeddings), expected) < 0.2
    assert warnings == ["the GPU's memory is short: speech is encoded in segments, slightly different from the whole"]
