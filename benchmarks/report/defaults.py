"""Defaults of the benchmarks' arguments, which are needed before anything is imported: folders, the built-in model."""

from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
DOCS = Path(__file__).parents[2] / "docs"
MODEL = "multitalk-puppet"
WEIGHTS = Path(__file__).parents[2] / "models" / MODEL
"""The trained weights in this repository."""
COLOR_CORRECTION = 0.3
"""Default color correction strength of the predictor."""
