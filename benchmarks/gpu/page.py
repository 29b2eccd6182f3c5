"""What runs of `benchmarks.gpu` and `benchmarks.speed.compiled` found, as sections of the performance page."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.gpu.plot import results
from benchmarks.report.tables import markdown

Document = Mapping[str, Any]
WAITS = (
    "## On a GPU\n\nNot measured yet. `make bench-gpu` does it on one GPU of 80 GB or more, and "
    "writes this section: the 14B network with random weights, every figure beside its floor in the same run, the "
    "plain form beside ours, the kernels beside `torch.compile`."
)


def sections(document: Document | None, compiled: Document | None) -> Iterator[str]:
    """Of the documents that there are; without any, what would be measured."""
    if document is None and compiled is None:
        yield WAITS
    if document is not None:
        yield from _model(document)
    if compiled is not None:
        yield from _forms(compiled)


def _model(document: Document) -> Iterator[str]:
    device, ceilings = document["device"], document["ceilings"]
    fp8 = f", in fp8 {ceilings['product_fp8'] / 1e12:.0f}" if ceilings["product_fp8"] else ""
    yield f"## On a GPU: {device['name']}"
    versions = f"driver {device.get('driver_version', 'none')}, CUDA {device.get('cuda')}, torch {document['torch']}"
    yield (
        f"Made by `{document['command']}` ({versions}, {document['date']}, commit {document['commit']}); medians of "
        f"{document['repeats']}. A large product reached {ceilings['product'] / 1e12:.3g} TFLOP/s{fp8}, a copy "
        f"{ceilings['copy'] / 1e12:.3g} TB/s."
    )
    yield "![Roofline](gpu-roofline.svg)\n![Where a step goes](gpu-step.svg)"
    yield from _against_plain(results(document, "against-plain"))
    yield f"### A forward\n\n{markdown(COLUMNS, list(_forwards(document)))}"
    yield f"### The VAE, and loading\n\n{markdown(COLUMNS, list(_rest(document)))}"
    failed = {name: stage["failed"] for name, stage in document["stages"].items() if "failed" in stage}
    if failed:
        yield "### Failed\n\n" + "\n".join(f"- {name}: {message}" for name, message in failed.items())


def _forms(document: Document) -> Iterator[str]:
    yield (
        f"## One block in each form: {document['model']} on {document['device']['name']}\n\nMade by "
        f"`{document['command']}` (torch {document['torch']}, {document['date']}, commit {document['commit']}), "
        f"{document['persons']} persons. *Off*: relative difference from the plain form. *Graphs*: how many "
        "`torch.compile` had made when it was done with this size."
    )
    names = [name for name in ("plain", "compiled", "triton") if name in next(iter(document["sizes"].values()))]
    head = ("size", *(f"{name}, ms" for name in names), *(f"{name}, off" for name in names[1:]), "graphs")
    rows = [
        (
            size,
            *(f"{row[name]['median_s'] * 1e3:.3g}" for name in names),
            *(f"{row[name]['error']:.0e}" for name in names[1:]),
            str(row["graphs"]),
        )
        for size, row in document["sizes"].items()
    ]
    yield markdown(head, rows)


COLUMNS = ("what", "s", "floor, s", "x floor", "peak, GB")


def _against_plain(found: Document) -> Iterator[str]:
    if found:
        rows = [
            (row["what"], f"{row['median_s']:.3g}", f"{row['over_floor']:.2f}", f"{row['difference']:.0e}")
            for row in found["rows"]
        ]
        title = f"### A step of {len(found['passes'])} passes, {found['size']}, two persons"
        yield f"{title}: {found['plain_over_ours']:.2f} times as fast as the plain form"
        yield markdown(("added", "s", "x floor", "off"), rows)


def _forwards(document: Document) -> Iterator[tuple[str, ...]]:
    for stage in ("forward-named", "forward-fp8", "forward-480", "forward-720"):
        suffix = ", fp8" if stage.endswith("fp8") else ""
        for name, row in results(document, stage).items():
            if name != "weights_bytes":
                yield _cells(name + suffix, row)


def _rest(document: Document) -> Iterator[tuple[str, ...]]:
    for size, rows in results(document, "vae").items():
        for name, row in rows.items():
            yield _cells(f"{name}, {size}", row)
    for name, row in results(document, "clip").items():
        if isinstance(row, Mapping):
            yield _cells(
                f"a clip, file to file, {name}, {row['size']}", row["total"] | {"peak_bytes": row["peak_bytes"]}
            )
    for name, row in results(document, "load").items():
        if isinstance(row, Mapping):
            yield _cells(f"load: {name.replace('_', ' ')}", row)


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    peak = f"{row['peak_bytes'] / 1e9:.3g}" if "peak_bytes" in row else ""
    return (name, f"{row['median_s']:.3g}", f"{row['floor_s']:.3g}", f"{row['over_floor']:.2f}", peak)
