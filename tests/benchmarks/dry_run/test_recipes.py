"""Recipes of common cards: their table, and those of 24 GB walked through with all blocks."""

import json

import pytest

from app.prediction import GB, Recipe
from benchmarks.dry_run.recipes import RECIPES, walk
from benchmarks.report.defaults import RESULTS
from tests.benchmarks.dry_run.test_pipeline import unexpected_events

ROWS = json.loads((RESULTS / "dry_run.json").read_text())["recipes"]


def test_table_has_every_recipe_and_each_fits() -> None:
    keys = [(row["gpu"], row["ram"], row["dtype"], row["resolution"], row["persons"]) for row in ROWS]
    assert keys == [(each.gpu, each.ram, each.precision, each.resolution, each.num_persons) for each in RECIPES]
    for row in ROWS:
        assert row["faults"] == []
        assert 0.9 * row["predicted_bytes"] <= row.get("counted_bytes", row["predicted_bytes"]) <= row["gpu"]


@pytest.mark.soak
@pytest.mark.parametrize("recipe", [each for each in RECIPES if each.gpu == 24 * GB], ids=str)
def test_recipe_of_a_24_gb_card_works(recipe: Recipe) -> None:
    run = walk(recipe)
    assert unexpected_events(run) == []
    assert 0.9 * run.plan.peak <= run.peak("condition", "denoise", "decode") <= 1.03 * run.plan.peak
