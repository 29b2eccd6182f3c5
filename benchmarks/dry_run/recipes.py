"""Recipes of common cards: each predicted by `app.plan`, and walked through by a dry run with that card's memory."""

from typing import Any

from app.cards import reference_card
from app.prediction import Recipe, predict
from benchmarks.dry_run.case import Case, DryRun, dry_run
from benchmarks.dry_run.fake_cuda import Card

GB = 10**9
RECIPES = (
    Recipe(gpu=16 * GB, ram=32 * GB, precision="fp8"),
    Recipe(gpu=24 * GB, ram=32 * GB, precision="fp8"),
    Recipe(gpu=24 * GB, ram=32 * GB, precision="fp8", resolution="720p", num_persons=2),
    Recipe(gpu=24 * GB, ram=64 * GB),
    Recipe(gpu=48 * GB, ram=64 * GB, num_persons=2),
    Recipe(gpu=48 * GB, ram=64 * GB, precision="fp8", resolution="720p", num_persons=2),
    Recipe(gpu=80 * GB, ram=64 * GB, resolution="720p", num_persons=2),
)
NUM_STEPS = 2
"""Denoising steps of a dry run: the third would repeat the second."""


def walk(recipe: Recipe, num_layers: int | None = None) -> DryRun:
    """Two chunks of the recipe's video, one frame of the second, on a fake card that has its memory."""
    card = reference_card(recipe.gpu)
    return dry_run(
        Case(
            model=recipe.model,
            card=Card(name=card.name, free=recipe.free, capability=card.capability),
            precision=recipe.precision,
            num_persons=recipe.num_persons,
            size=(recipe.size.height, recipe.size.width),
            num_frames=recipe.size.frames + 1,
            num_layers=num_layers,
            options={"preset_name": "fast", "sampling_steps": NUM_STEPS},
        )
    )


def predicted(recipe: Recipe) -> dict[str, Any]:
    """A recipe as `app.plan` predicts it."""
    prediction = predict(recipe)
    plan = prediction.plan
    return {
        "gpu": recipe.gpu,
        "ram": recipe.ram,
        "card": prediction.card.name,
        "dtype": recipe.precision,
        "resolution": recipe.resolution,
        "persons": recipe.num_persons,
        "plan": None if plan is None else str(plan).rpartition(", ")[0],
        "predicted_bytes": max(prediction.stage_peaks.values()),
        "host_bytes": prediction.host,
        "clip_seconds": recipe.seconds,
        "seconds": prediction.seconds,
        "faults": prediction.faults,
    }


def counted(recipe: Recipe) -> dict[str, Any]:
    """What its dry run counts."""
    run = walk(recipe)
    return {
        "plan": str(run.plan).rpartition(", ")[0],
        "counted_bytes": run.peak("prepare", "condition", "embed", "denoise", "decode"),
    }
