"""Every stage of the GPU benchmark at tiny size on a CPU."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.bench import Bench, tiny_bench
from benchmarks.gpu.networks import random_transformer
from benchmarks.gpu.page import sections
from benchmarks.gpu.plot import plot
from benchmarks.gpu.spans import Span, SpanRecorder, module_functions, seconds_by_stage, stage_of
from benchmarks.gpu.stages import STAGES
from benchmarks.report.defaults import RESULTS
from benchmarks.speed import roofline
from wan.configs import WAN_CONFIGS
from wan.modules import rope
from wan.modules.quantized import quantized_layers
from wan.types import VideoSize

CPU = torch.device("cpu")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    return command.main()


def test_all_stages_run_on_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "gpu.json"
    assert run(monkeypatch, "--tiny", "--output", str(output)) == 0
    document: dict[str, Any] = json.loads(output.read_text())
    assert document["stages"].keys() == STAGES.keys()
    results = {name: stage["results"] for name, stage in document["stages"].items()}
    block = WAN_CONFIGS["multitalk-puppet"].transformer
    expected = roofline.block_work(block, VideoSize(frames=5, height=32, width=64), 2).keys()
    assert all(profile["stages"].keys() == expected for profile in results["profile"].values())
    plans = [results["clip"][name]["plan"] for name in ("resident", "streamed", "smallest")]
    assert [plan.split(",")[0] for plan in plans] == ["resident", "streamed", "streamed"]
    assert "Failed" not in "\n".join(sections(document, None))
    assert all(path.stat().st_size > 5000 for path in plot(document, tmp_path))


def test_failed_stage_is_recorded_and_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Bench) -> dict[str, Any]:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setitem(STAGES, "profile", fail)
    output = tmp_path / "gpu.json"
    assert run(monkeypatch, "--tiny", "--stages", "profile,forward-named", "--output", str(output)) == 1
    stages = json.loads(output.read_text())["stages"]
    assert stages["profile"]["failed"] == "OutOfMemoryError: no memory"
    assert "results" in stages["forward-main"]


@pytest.mark.parametrize(
    "arguments",
    [["--tiny"], ["--tiny", "--output", str(RESULTS / "gpu.json")], ["--tiny", "--stages", "x", "--output", "x.json"]],
)
def test_invalid_arguments_are_rejected(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, *arguments)


def test_bucket_tables_have_all_token_counts() -> None:
    bench = tiny_bench(CPU)
    published = Bench(
        config=WAN_CONFIGS["multitalk-14B"], device=CPU, main_sizes=(), repeats=1, peak=bench.peak, load_bytes=0
    )
    counts = [[roofline.num_tokens(size) for size in published.sizes(name)] for name in ("480", "720")]
    assert [len(set(each)) for each in counts] == [8, 11]
    assert all(each == sorted(each) for each in counts)


def test_random_14b_transformer_has_the_dtypes_of_a_checkpoint() -> None:
    model = random_transformer(WAN_CONFIGS["multitalk-14B"], torch.device("meta"), "fp8")
    assert model.device.type == "meta"
    assert len(quantized_layers(model)) == 40 * 15
    assert model.blocks[0].modulation.dtype == torch.float32
    assert model.patch_embedding.weight.dtype == torch.bfloat16


def test_self_time_excludes_nested_spans() -> None:
    recorder = SpanRecorder(CPU)
    attention = Span("attention", 1.0, 5.0)
    output = Span("self_attn.o", 5.0, 8.0)
    children = [
        Span("norm1", 0.0, 1.0),
        Span("self_attn", 1.0, 9.0, [attention, output]),
        Span("new_kernel", 9.0, 10.0),
    ]
    recorder.spans.append(Span("", 0.0, 12.0, children))
    assert seconds_by_stage(recorder) == {"norms": 1 + 2, "self-attention": 4 + 1, "output": 3, "new_kernel": 1}


def test_functions_added_by_torch_compile_are_not_instrumented(monkeypatch: pytest.MonkeyPatch) -> None:
    def resumed() -> None: ...

    resumed.__module__ = None  # type: ignore[assignment]
    monkeypatch.setattr(rope, "__resume_at_0", resumed, raising=False)
    names = {name for _, name, _ in module_functions()}
    assert "apply_rope" in names
    assert "__resume_at_0" not in names


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        (("", "self_attn.q"), "qkv"),
        (("", "apply_rope"), "rope"),
        (("", "audio_cross_attn", "apply_rope"), "audio"),
        (("", "cross_attn", "cross_attn.q"), "cross-attention"),
        (("", "speaker_labels", "attention_to_classes", "attention", "sdpa"), "labels"),
        (("",), "norms"),
    ],
)
def test_spans_are_assigned_to_stages(path: tuple[str, ...], stage: str) -> None:
    assert stage_of(path) == stage
