"""Sections of docs/performance.md for the results of `benchmarks.gpu` and `benchmarks.speed.compiled`."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.gpu.plot import stage_results
from benchmarks.report.tables import markdown_table

Document = Mapping[str, Any]
NOT_MEASURED = (
    "## On a GPU\n\nNot measured yet. `make bench-gpu` on one GPU of 80 GB or more writes this section: the 14B model "
    "with random weights beside its roofline, the optimized model beside the eager baseline, and our kernels beside "
    "`torch.compile`."
)


def sections(document: Document | None, compiled: Document | None) -> Iterator[str]:
    """Sections of the available documents; without any, a note on how to measure."""
    if document is None and compiled is None:
        yield NOT_MEASURED
    if document is not None:
        yield from _gpu_sections(document)
    if compiled is not None:
        yield from _compiled_sections(compiled)


def _gpu_sections(document: Document) -> Iterator[str]:
    device, peak = document["device"], document["peak_throughput"]
    fp8 = f", {peak['matmul_fp8'] / 1e12:.0f} in fp8" if peak["matmul_fp8"] else ""
    yield f"## On a GPU: {device['name']}"
    versions = f"driver {device.get('driver_version', 'none')}, CUDA {device.get('cuda')}, torch {document['torch']}"
    yield (
        f"Made by `{document['command']}` ({versions}, {document['date']}, commit {document['commit']}); medians of "
        f"{document['repeats']}. Peak throughput: {peak['matmul'] / 1e12:.3g} TFLOP/s{fp8} (large matrix product), "
        f"{peak['copy'] / 1e12:.3g} TB/s (copy)."
    )
    yield "![Roofline](gpu-roofline.svg)\n![Time of a forward by stage](gpu-step.svg)"
    yield from _against_eager(stage_results(document, "against-eager"))
    yield f"### Forward\n\n{markdown_table(COLUMNS, _forward_rows(document))}"
    yield f"### VAE, clip and loading\n\n{markdown_table(COLUMNS, _other_rows(document))}"
    failed = {name: stage["failed"] for name, stage in document["stages"].items() if "failed" in stage}
    if failed:
        yield "### Failed\n\n" + "\n".join(f"- {name}: {message}" for name, message in failed.items())


def _compiled_sections(document: Document) -> Iterator[str]:
    yield (
        f"## One block eager, compiled and with kernels: {document['model']} on {document['device']['name']}\n\n"
        f"Made by `{document['command']}` (torch {document['torch']}, {document['date']}, commit "
        f"{document['commit']}), {document['persons']} persons. *Error*: relative to eager. *Graphs*: number compiled "
        "by `torch.compile` up to and including this size."
    )
    names = [name for name in ("eager", "compiled", "triton") if name in next(iter(document["sizes"].values()))]
    head = ("size", *(f"{name}, ms" for name in names), *(f"{name}, error" for name in names[1:]), "graphs")
    rows = [
        (
            size,
            *(f"{row[name]['median_s'] * 1e3:.3g}" for name in names),
            *(f"{row[name]['relative_error']:.0e}" for name in names[1:]),
            str(row["graphs"]),
        )
        for size, row in document["sizes"].items()
    ]
    yield markdown_table(head, rows)


COLUMNS = ("what", "s", "roofline, s", "x roofline", "peak memory, GB")


def _against_eager(result: Document) -> Iterator[str]:
    if result:
        rows = [
            (row["variant"], f"{row['median_s']:.3g}", f"{row['over_roofline']:.2f}", f"{row['relative_error']:.0e}")
            for row in result["rows"]
        ]
        title = f"### Denoising step of {len(result['passes'])} passes, {result['size']}, two persons"
        yield f"{title}: {result['plain_over_ours']:.2f} times as fast as the eager baseline"
        yield markdown_table(("added optimization", "s", "x roofline", "relative error"), rows)


def _forward_rows(document: Document) -> Iterator[tuple[str, ...]]:
    for stage in ("forward-main", "forward-fp8", "forward-480", "forward-720"):
        suffix = ", fp8" if stage.endswith("fp8") else ""
        for name, row in stage_results(document, stage).items():
            if name != "weights_bytes":
                yield _cells(name + suffix, row)


def _other_rows(document: Document) -> Iterator[tuple[str, ...]]:
    for size, rows in stage_results(document, "vae").items():
        for name, row in rows.items():
            yield _cells(f"{name}, {size}", row)
    for name, row in stage_results(document, "clip").items():
        if isinstance(row, Mapping):
            total = row["total"] | {"peak_bytes": row["peak_bytes"]}
            yield _cells(f"clip, file to file, {name}, {row['size']}", total)
    for name, row in stage_results(document, "load").items():
        if isinstance(row, Mapping):
            yield _cells(f"load: {name.replace('_', ' ')}", row)


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    peak = f"{row['peak_bytes'] / 1e9:.3g}" if "peak_bytes" in row else ""
    return (name, f"{row['median_s']:.3g}", f"{row['roofline_s']:.3g}", f"{row['over_roofline']:.2f}", peak)
