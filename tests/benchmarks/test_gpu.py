"""Every stage of the GPU benchmark at tiny size, and what becomes of one that fails."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import document
from benchmarks.gpu.bench import Bench, tiny
from benchmarks.gpu.networks import draw_transformer
from benchmarks.gpu.page import WAITS, sections
from benchmarks.gpu.plot import plot
from benchmarks.gpu.stages import STAGES
from benchmarks.gpu.timeline import Span, Timeline, functions, stage_of, stages_of
from benchmarks.gpu.vae import DECODE, FRAMES, PICTURE, vae_flops
from benchmarks.report.environment import RESULTS
from benchmarks.speed import roofline
from wan.configs import WAN_CONFIGS
from wan.modules import rope
from wan.modules.quantized import quantized_layers
from wan.types import VideoSize

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return tiny(CPU)


@pytest.fixture(scope="module")
def found(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of all stages, as the file holds it."""
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    document.run(bench, STAGES, path)
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_every_stage_runs(found: dict[str, Any]) -> None:
    assert document.failures(found) == {}
    assert found["stages"].keys() == STAGES.keys()
    assert set(found["attention"].values()) == {"torch"}
    assert found["kernels"] == "plain"
    assert {"command", "commit", "machine", "torch", "device", "libraries", "ceilings"} <= found.keys()


@pytest.mark.parametrize("stage", ["forward-named", "forward-480", "forward-720", "forward-fp8"])
def test_a_forward_has_its_floor(found: dict[str, Any], stage: str) -> None:
    rows = {name: row for name, row in found["stages"][stage]["results"].items() if name != "weights_bytes"}
    assert len(rows) == 2  # one token count, one and two persons
    for row in rows.values():
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        assert row["over_floor"] == pytest.approx(row["median_s"] / row["floor_s"])
        assert row["peak_bytes"] > found["stages"][stage]["results"]["weights_bytes"]
    one, two = rows.values()
    assert two["flops"] > one["flops"]


def test_a_block_s_stages_are_those_that_have_a_floor(found: dict[str, Any], bench: Bench) -> None:
    """Nothing is left over, and together they are the block."""
    for profile in found["stages"]["profile"]["results"].values():
        stages = profile["stages"]
        assert stages.keys() == roofline.block_work(bench.config.transformer, bench.named[0], 2).keys()
        assert all(stage["seconds"] > 0 for stage in stages.values())
        assert profile["blocks"] == 2


def test_a_clip_under_each_plan(found: dict[str, Any]) -> None:
    results = found["stages"]["clip"]["results"]
    assert results["resident"]["plan"].startswith("resident")
    for name in ("streamed", "leanest"):
        assert results[name]["plan"].startswith("streamed, 0 resident blocks")
        ratio = results[name]["total"]["median_s"] / results["resident"]["total"]["median_s"]
        assert results[f"{name}_over_resident"] == pytest.approx(ratio)
        assert results[name]["file_bytes"] == results["resident"]["file_bytes"]
    assert {"denoise", "decode", "encode", "total"} <= results["resident"]["seconds"].keys()


def test_loading_is_of_the_bytes_that_were_read(found: dict[str, Any], bench: Bench) -> None:
    results = found["stages"]["load"]["results"]
    assert results["bytes"] >= bench.load_bytes
    assert results["bytes_per_second"] == pytest.approx(results["bytes"] / results["file_to_device"]["median_s"])


def test_a_stage_that_fails_is_recorded_and_the_others_run(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Bench) -> dict[str, Any]:
        raise torch.OutOfMemoryError("no room (as a test has it)")

    output = tmp_path / "gpu.json"
    monkeypatch.setitem(STAGES, "profile", fails)
    arguments = ["--tiny", "--stages", "profile,forward-named", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    assert command.main() == 1
    stages = json.loads(output.read_text())["stages"]
    assert stages["profile"]["failed"] == "OutOfMemoryError: no room (as a test has it)"
    assert "results" in stages["forward-named"]
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny", "--stages", "forward-named", "--output", str(output)])
    assert command.main() == 0


@pytest.mark.parametrize(
    "arguments",
    [["--tiny"], ["--tiny", "--output", str(RESULTS / "gpu.json")], ["--tiny", "--stages", "x", "--output", "x.json"]],
)
def test_nothing_tiny_among_the_results(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    with pytest.raises(SystemExit):
        command.main()


def test_all_token_counts_of_the_published_tables(bench: Bench) -> None:
    config = WAN_CONFIGS["multitalk-14B"]
    published = Bench(config=config, device=CPU, named=(), repeats=1, ceilings=bench.ceilings, load_bytes=0)
    counts = [[roofline.tokens(size) for size in published.sizes(name)] for name in ("480", "720")]
    assert [len(set(each)) for each in counts] == [8, 11]
    assert all(count % 8 == 0 for each in counts for count in each)
    assert counts[0] == sorted(counts[0])


def test_networks_are_drawn_where_they_are_to_be() -> None:
    """The 14B's dtypes and layers, on the meta device: nothing of it passes through the host."""
    config = WAN_CONFIGS["multitalk-14B"]
    model = draw_transformer(config, torch.device("meta"), "fp8")
    assert model.device.type == "meta"
    assert len(quantized_layers(model)) == 40 * 15
    assert model.blocks[0].modulation.dtype == torch.float32
    assert model.patch_embedding.weight.dtype == torch.bfloat16


def test_operations_of_the_published_vae() -> None:
    """About 275 TFLOP to decode and 164 to encode; a picture alone needs a good third of that."""
    counts = vae_flops(WAN_CONFIGS["multitalk-14B"].vae, VideoSize(frames=81, height=448, width=896))
    assert counts[DECODE] / 1e12 == pytest.approx(275, abs=3)
    assert counts[FRAMES] / 1e12 == pytest.approx(164, abs=2)
    assert counts[PICTURE] < 0.45 * counts[FRAMES]


def test_own_time_is_that_of_no_span_inside() -> None:
    timeline = Timeline(CPU)
    attention = Span("attention", 1.0, 5.0)
    output = Span("self_attn.o", 5.0, 8.0)
    inside = [Span("norm1", 0.0, 1.0), Span("self_attn", 1.0, 9.0, [attention, output]), Span("new_kernel", 9.0, 10.0)]
    timeline.spans.append(Span("", 0.0, 12.0, inside))
    assert stages_of(timeline) == {"norms": 1 + 2, "self-attention": 4 + 1, "output": 3, "new_kernel": 1}


def test_functions_that_torch_compile_put_somewhere_are_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    def resumed() -> None: ...

    resumed.__module__ = None  # type: ignore[assignment]
    monkeypatch.setattr(rope, "__resume_at_0", resumed, raising=False)
    names = [name for _, name, _ in functions()]
    assert "apply_rope" in names
    assert "__resume_at_0" not in names


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        (("", "self_attn.q"), "qkv"),
        (("", "rotate"), "rope"),
        (("", "audio_cross_attn", "rotate"), "audio"),
        (("", "cross_attn", "cross_attn.q"), "cross-attention"),
        (("", "speaker_labels", "attention_to_classes", "attention", "sdpa"), "labels"),
        (("",), "norms"),
    ],
)
def test_spans_belong_to_stages(path: tuple[str, ...], stage: str) -> None:
    assert stage_of(path) == stage


def test_the_page_shows_every_stage(found: dict[str, Any], bench: Bench) -> None:
    text = "\n".join(sections(found, None))
    named = "32 x 64 x 5"
    shown = [
        f"A step of 3 passes, {named}, two persons",
        *(f"| {named}, {persons} person(s){form} |" for persons in (1, 2) for form in ("", ", fp8")),
        *(f"| {size.height} x {size.width} x 5, 1 person(s) |" for size in bench.sizes("720")),
        *(f"| {work}, {named} |" for work in (PICTURE, FRAMES, DECODE)),
        *(f"| a clip, file to file, {plan}, " for plan in ("resident", "streamed", "leanest")),
        "| load: file to device |",
    ]
    assert [words for words in shown if words not in text] == []
    assert "Failed" not in text


def test_the_page_tells_what_failed_and_what_was_not_measured(found: dict[str, Any]) -> None:
    failed = {**found, "stages": {"vae": {"failed": "OutOfMemoryError: no room"}}}
    assert "- vae: OutOfMemoryError: no room" in "\n".join(sections(failed, None))
    assert list(sections(None, None)) == [WAITS]


def test_the_plots_show_every_stage(found: dict[str, Any], bench: Bench, tmp_path: Path) -> None:
    roofline_plot, step = plot(found, tmp_path, "svg")
    text = step.read_text()
    for stage in roofline.block_work(bench.config.transformer, bench.named[0], 2):
        assert f"<!-- {stage}" in text
    assert "<!-- decode" in roofline_plot.read_text()
