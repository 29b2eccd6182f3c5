"""Long tracks in windows: nearly the whole file's states, and the same however long the track is."""

import numpy as np
import pytest
import torch
from torch import Tensor

from src.audio_analysis import long_audio
from src.audio_analysis.long_audio import LazySpeechEmbeddings, SegmentSize, embed_speech
from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.media.audio.audio import read_audio, to_mono
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
    """Two voices by turns, 16 seconds."""
    paths = [ROOT / "examples" / f"voice_{name}.flac" for name in ("anna", "ben")]
    turns = [to_mono(read_audio(path, name="voice", max_seconds=60), RATE)[: 4 * RATE] for path in paths]
    return np.concatenate(turns * 4)[: 16 * RATE]


def states(track: LazySpeechEmbeddings) -> Tensor:
    return track[torch.arange(len(track))]


def whole(model: Wav2Vec2Model, track_N: np.ndarray) -> Tensor:
    return model.get_embeddings(model.extract_features(track_N, RATE))


def test_one_window_over_all_is_the_whole_file(model: Wav2Vec2Model, voice: np.ndarray) -> None:
    track = LazySpeechEmbeddings(model, voice, SegmentSize(core=1000))
    expected = whole(model, voice)
    assert track.shape == expected.shape
    assert relative_error(states(track), expected) < 1e-3


def test_windows_are_near_the_whole_file(model: Wav2Vec2Model, voice: np.ndarray) -> None:
    assert (
        relative_error(
            states(LazySpeechEmbeddings(model, voice, SegmentSize(core=100, context=100))), whole(model, voice)
        )
        < 0.2
    )


def test_states_do_not_depend_on_the_length(model: Wav2Vec2Model, voice: np.ndarray) -> None:
    shorter, longer = (LazySpeechEmbeddings(model, voice[: seconds * RATE], SMALL, measured=5) for seconds in (9, 16))
    ended = 9 * 25 - SMALL.context - 25  # in the last window but one that does not reach the end
    torch.testing.assert_close(states(longer)[:ended], states(shorter)[:ended])


def test_silence_first_does_not_make_the_rest_loud(model: Wav2Vec2Model, voice: np.ndarray) -> None:
    late = LazySpeechEmbeddings(model, np.concatenate([np.zeros(10 * RATE, np.float32), voice]), SMALL)
    early = LazySpeechEmbeddings(model, voice, SMALL)
    torch.testing.assert_close(states(late)[300:], states(early)[50:])
    assert torch.isfinite(states(LazySpeechEmbeddings(model, np.zeros(5 * RATE, np.float32), SMALL))).all()


def test_chunks_hear_a_long_track_as_they_hear_a_tensor(model: Wav2Vec2Model, voice: np.ndarray) -> None:
    track = LazySpeechEmbeddings(model, voice, SMALL)
    tensor = states(track)
    for chunk in plan_chunks(len(track), 33, 9):
        assert torch.equal(speech_windows((track,), chunk, 5), speech_windows((tensor,), chunk, 5))
        assert len(track.kept) <= 2


def test_short_tracks_are_encoded_whole(
    model: Wav2Vec2Model, voice: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torch.equal(embed_speech(model, voice), whole(model, voice))  # type: ignore[arg-type]
    monkeypatch.setattr(long_audio, "MAX_WHOLE_SECONDS", 15)
    assert isinstance(embed_speech(model, voice), LazySpeechEmbeddings)
