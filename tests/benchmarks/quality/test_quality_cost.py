"""The list of prices: what is varied, how it is written down."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.baseline.puppet import WEIGHTS, Puppet
from benchmarks.quality.clips import ROWS, draw_clip
from benchmarks.quality.quality_cost import CONFIG, MEASURED, PLAIN, options_of, plot, price, table, text, variants


def test_every_line_changes_something_and_only_that() -> None:
    found = variants([Path("loras/distilled.safetensors")])
    assert len({(each.group, each.name) for each in found}) == len(found)
    groups = {each.group for each in found}
    assert {"steps", "TeaCache, 25 steps", "MagCache, 25 steps", "preset", "precision", "LoRA distilled"} <= groups
    puppet = Puppet()
    for each in found:
        options = puppet.options("fast", **{**PLAIN, **each.changes})  # raises for a value out of range
        assert all(getattr(options, name) == value for name, value in each.changes.items())


def test_presets_are_priced_as_they_come() -> None:
    puppet = Puppet()
    found = {each.name: each for each in variants([Path("loras/distilled.safetensors")]) if each.group == "preset"}
    assert set(found) >= {*CONFIG.presets, "turbo", "quality, MagCache", "turbo, guidance reuse"}
    for name in CONFIG.presets:
        assert options_of(puppet, found[name]) == puppet.options(name)
    assert options_of(puppet, found["turbo"]) == puppet.options(None)
    assert found["fast"].lora == Path("loras/distilled.safetensors")
    assert "fast" not in {each.name for each in variants([])}
    runs = {name: puppet.evaluations(options_of(puppet, each)) for name, each in found.items()}
    assert runs["fast"] == 4
    for name in ("quality", "balanced", "turbo"):
        assert runs[f"{name}, guidance reuse"] < runs[name] < runs[f"{name}, no cache"]
        assert runs[f"{name}, MagCache"] < runs[f"{name}, no cache"] / 2


@pytest.fixture(scope="module")
def prices() -> list[dict[str, Any]]:
    wanted = [each for each in variants([]) if (each.group, each.name) in {("steps", "2"), ("precision", "int8")}]
    return price(WEIGHTS, wanted, clips=1, long_clips=0, seed=0)


def test_prices_are_of_the_same_clips(prices: list[dict[str, Any]]) -> None:
    assert [(one["group"], one["name"]) for one in prices] == [("steps", "2"), ("precision", "int8")]
    for one in prices:
        assert one["own"] > 0.7
        assert one["own_95"][0] <= one["own"] <= one["own_95"][1]
        assert one["seconds"] > 0
    assert [one["runs"] for one in prices] == [4, 16]


def test_the_page_shows_each_line(prices: list[dict[str, Any]], tmp_path: Path) -> None:
    plot(prices, tmp_path / "prices.svg")
    assert (tmp_path / "prices.svg").stat().st_size > 5000
    assert "steps: 2" in table(prices)
    document = {"command": "c", "date": "d", "commit": "e", "machine": "m", "torch": "t", "prices": prices}
    page = text({**document, "clips_a_row": 1, "long_clips": 0, "rows": MEASURED})
    assert "precision: int8" in page
    assert "prices.svg" in page


def test_the_rows_that_are_measured_exist() -> None:
    rows = {row.name: row for row in ROWS}
    assert all(draw_clip(rows[name], 0, 0).row.persons == 2 for name in MEASURED)
