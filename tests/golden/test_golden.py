"""The numbers equal those of the published network, and the runner detects differences."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.golden.__main__ import main
from tests.golden.file import GoldenFile, golden_paths, read_golden, stem
from tests.golden.pipeline import VIDEO
from tests.golden.run import NOT_COMPARED, compare_file, compute_file

FOLDER = Path(__file__).parents[1] / "data" / "golden"
PATHS = [path for path in golden_paths(FOLDER) if stem(path) not in NOT_COMPARED]


@pytest.fixture(scope="module", params=PATHS, ids=stem)
def computed(request: pytest.FixtureRequest) -> tuple[GoldenFile, dict[str, Tensor]]:
    """A golden file and the values computed for it."""
    golden = read_golden(request.param)
    return golden, compute_file(golden)


def test_every_output_is_within_its_limit(computed: tuple[GoldenFile, dict[str, Tensor]]) -> None:
    results = list(compare_file(*computed))
    assert results
    assert [str(result) for result in results if result.verdict != "ok"] == []


def test_corrupted_output_fails(computed: tuple[GoldenFile, dict[str, Tensor]]) -> None:
    golden, values = computed
    names = [result.output for result in compare_file(golden, values)]
    for name in names:
        corrupted = {**golden.tensors, name: corrupt(golden.tensors[name])}
        broken = GoldenFile(path=golden.path, config=golden.config, tensors=corrupted)
        failed = [result.output for result in compare_file(broken, values) if result.verdict == "FAIL"]
        assert failed == [name]


def test_video_is_compared_up_to_the_end_of_the_expected_one(computed: tuple[GoldenFile, dict[str, Tensor]]) -> None:
    golden, values = computed
    if VIDEO not in golden.tensors:
        pytest.skip("no video")
    for num_frames, num_failed in ((golden.tensors[VIDEO].shape[1] // 2, 0), (values[VIDEO].shape[1] + 1, 1)):
        video = golden.tensors[VIDEO][:, :1].expand(-1, num_frames, -1, -1).clone()
        common = min(num_frames, golden.tensors[VIDEO].shape[1])
        video[:, :common] = golden.tensors[VIDEO][:, :common]
        changed = GoldenFile(path=golden.path, config=golden.config, tensors={**golden.tensors, VIDEO: video})
        assert [result.verdict for result in compare_file(changed, values)].count("FAIL") == num_failed


def corrupt(tensor: Tensor) -> Tensor:
    """The tensor with a quarter of its elements changed by 1 % of their mean magnitude, or to 1 where they are zero."""
    corrupted = tensor.clone().flatten()
    part = corrupted[: max(1, len(corrupted) // 4)]
    part += part.abs().mean().to(part.dtype) * 0.01 + (part.abs().max() == 0).to(part.dtype)
    return corrupted.view_as(tensor)


def test_teacache_skips_steps() -> None:
    from tests.golden.modules import load_transformer
    from wan.configs import WAN_CONFIGS
    from wan.sampling.schedule import timesteps
    from wan.sampling.teacache import teacache_plan

    golden = read_golden(next(path for path in PATHS if stem(path) == "pipe_teacache_skips"))
    options = golden.config
    times = timesteps(options["sampling_steps"], options["shift"])[:-1]
    with torch.inference_mode():
        e0 = [load_transformer(golden).embed_time(t[None]).timestep_proj for t in times]
    coefficients = WAN_CONFIGS["multitalk-14B"].teacache_coefficients["480"]
    plan = teacache_plan(e0, coefficients, options["extra_args"]["teacache_thresh"])
    assert 0 < plan.count(False) < len(plan)


def test_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1, "an empty folder"
    (tmp_path / "schedule.safetensors.xz").write_bytes((FOLDER / "schedule.safetensors.xz").read_bytes())
    assert main([str(tmp_path)]) == 0
    save_file({"x": torch.ones(1)}, tmp_path / "unknown.safetensors")
    assert main([str(tmp_path)]) == 1, "a file of no family"
    assert "unknown (no case)" in capsys.readouterr().out
