"""What a start goes to, and what must not be loaded for the answers that come before it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.report import performance
from benchmarks.speed import cold_start

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "transformers", "diffusers", "librosa", "scipy", "av", "numpy", "PIL", "cog"}
GENEROUS = 4
"""Times the promised seconds: other work may keep the machine."""


def loaded(program: str) -> tuple[set[str], float]:
    """Which of the heavy packages a program loads, and its seconds."""
    program += f"\nimport sys, json\nprint(json.dumps([name for name in {sorted(HEAVY)} if name in sys.modules]))"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1])), time.perf_counter() - begin


@pytest.mark.parametrize(
    ("program", "promised_s"),
    [
        ("import wan", 3),
        ("import wan.configs", 3),
        ("from src.serving.cog.schema import openapi\nopenapi(open('predict.py').read())", 5),
    ],
)
def test_nothing_heavy_is_loaded(program: str, promised_s: float) -> None:
    heavy, seconds = loaded(program)
    assert heavy == set()
    assert seconds < GENEROUS * promised_s


def test_the_list_of_heavy_packages_sees_one() -> None:
    assert loaded("import numpy")[0] == {"numpy"}


def test_parts_make_up_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setup that takes a known time in each part; a call inside another one counts once."""
    waits = {"fetch": 0.05, "read": 0.1, "move": 0.02, "first run": 0.07}

    class Predictor:
        def setup(self) -> None:
            for part in waits:
                getattr(place, part)()
            time.sleep(0.03)

    def wait(part: str) -> Any:
        return lambda: time.sleep(waits[part])

    place: Any = SimpleNamespace(**{part: wait(part) for part in waits}, Predictor=Predictor)
    place.read = lambda: (place.move(), wait("read")())
    monkeypatch.setitem(sys.modules, "predict", place)
    monkeypatch.setattr(cold_start, "PARTS", {part: (("predict", part),) for part in waits})
    found = cold_start.start(time.monotonic() - 0.2)
    assert found.pop("total") == pytest.approx(sum(found.values()))
    assert found["imports"] >= 0.2
    assert found["read"] >= waits["read"] + waits["move"]
    assert found["rest"] >= 0.03


def test_a_result_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = [{"imports": seconds, "total": 2 * seconds} for seconds in (3.0, 1.0, 2.0)]
    monkeypatch.setattr(cold_start, "in_a_process", lambda fresh: starts.pop())
    monkeypatch.setattr(sys, "argv", ["cold_start", "--repeats", "3", "--output", str(tmp_path / "cold_start.json")])
    assert performance.start_up(None).endswith("`python -m benchmarks.speed.cold_start` does it.")
    cold_start.main()
    found = json.loads((tmp_path / "cold_start.json").read_text())
    text = performance.start_up(found)
    assert "medians of 3 processes.\n\n| part | s |\n| --- | --- |\n| imports | 2.00 |\n| total | 4.00 |" in text


def test_every_part_is_there() -> None:
    """The places that are watched exist, and are there again afterwards."""
    parts = cold_start.Parts()
    for part, places in cold_start.PARTS.items():
        for module, path in places:
            with parts.watch(part, module, path):
                pass
