"""Generated pages in docs/ match the committed results and the code."""

import json

from benchmarks.report import performance, presets, quality_vs_speed
from benchmarks.report.environment import DOCS, RESULTS


def test_performance_page_is_up_to_date() -> None:
    page = performance.render_page(performance.read_results(RESULTS))
    assert (DOCS / performance.PAGE).read_text() == page, "run `python -m benchmarks.report.performance`"


def test_quality_vs_speed_page_is_up_to_date() -> None:
    page = quality_vs_speed.render_page(json.loads((RESULTS / quality_vs_speed.RESULT).read_text()))
    assert (DOCS / quality_vs_speed.PAGE).read_text() == page, "run `python -m benchmarks.report.quality_vs_speed`"


def test_presets_table_is_up_to_date() -> None:
    text = (DOCS / presets.PAGE).read_text()
    assert presets.render_table() in text, "run `python -m benchmarks.report.presets`"
