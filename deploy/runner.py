"""One warm predictor outside of Cog's server: one request at a time, stopped from outside, with what it measured."""

import logging
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from predict import Predictor
from src.serving.cancellation import CancelledError, RequestContext, request_context
from src.serving.cog import schema
from src.serving.validation import validate
from wan.conditioning.protocols import SpeechEmbeddings

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[1]
WAIT_S = 0.05


class RecordingPredictor(Predictor):
    """The predictor, whose metrics are kept: Cog's are only there within Cog's server."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[str, Any] = {}

    def record_metric(self, key: str, value: Any, mode: str = "replace") -> None:
        """Keep a metric; every one is recorded once, so that the mode says nothing."""
        self.metrics[key] = value

    def embed(self, track_N: np.ndarray) -> SpeechEmbeddings:
        """As the predictor, and note the shape: frames, layers, width."""
        states = super().embed(track_N)
        self.metrics["speech_shape"] = list(states.shape)
        return states


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A finished video, in a place of the caller's, and what the predictor measured."""

    path: Path
    metrics: Mapping[str, Any]


class PredictorRunner:
    """Loads the model when it is first needed, and serves requests from any thread, one after another."""

    def __init__(self) -> None:
        self.predictor: RecordingPredictor | None = None
        self.failure: str | None = None
        self.lock = threading.Lock()

    @cached_property
    def document(self) -> schema.Schema:
        """The schema of the predictor's inputs."""
        return schema.openapi((REPOSITORY / "predict.py").read_text(encoding="utf-8"))

    def load(self) -> None:
        """Make the model ready; RuntimeError or ValueError, which says why, when not. Tried again each time."""
        if self.predictor is not None:
            return
        predictor = RecordingPredictor()
        try:
            predictor.setup()
        except Exception as error:
            self.failure = str(error)
            raise
        self.failure, self.predictor = None, predictor

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The inputs that are files, or lists of them."""
        fields = self.document["components"]["schemas"]["Input"]["properties"]
        return tuple(name for name, field in fields.items() if "uri" in (field | field.get("items", {})).values())

    def check(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Every input of the predictor with its default; ValuesError for what the schema does not allow.

        Files may be paths already.
        """
        return validate(inputs, self.document) | {name: inputs[name] for name in self.files if inputs.get(name)}

    def run(self, inputs: Mapping[str, Any], folder: Path, follower: RequestContext) -> Output:
        """Make one video, and move it into `folder`.

        Raises INPUT_FAULTS for what the caller can mend, CancelledError when the follower stops it, which
        leaves nothing behind and the model ready.
        """
        values = self.check(inputs)
        with self.turn(follower), request_context(follower):
            self.load()
            assert self.predictor is not None
            predictor = self.predictor
            predictor.metrics = {}
            try:
                path = folder / "output.mp4"
                shutil.move(predictor.predict(**values), path)
                return Output(path=path, metrics=predictor.metrics)
            finally:
                predictor.remove_last_output()

    @contextmanager
    def turn(self, follower: RequestContext) -> Iterator[None]:
        """Wait until no other request is at work; CancelledError when the follower gives up meanwhile."""
        while not self.lock.acquire(timeout=WAIT_S):
            if follower.cancelled.is_set():
                raise CancelledError(f"{follower.request_id} was cancelled before it began")
        try:
            yield
        finally:
            self.lock.release()

    @property
    def busy(self) -> bool:
        """Whether a request is at work, or the model is being loaded for one."""
        return self.lock.locked()
