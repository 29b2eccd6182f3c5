"""Checkpoints: from files in any known layout to the networks of a model."""

from wan.checkpoint.components import Models, load_models
from wan.checkpoint.layout import Precision
from wan.checkpoint.tensor_files import CheckpointError

__all__ = ["CheckpointError", "Models", "Precision", "load_models"]
