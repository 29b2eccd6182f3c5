"""`python -m benchmarks.quality.lipsync`: lip-sync quality of the built-in model on clips never seen in training.

Mouth openings are measured in the generated pixels and compared with those the renderer would draw for the same
voices. The renderer's own frames are measured too, as ground truth. Drift and PSNR are measured outside mouths;
`sync_metrics` describes the pooling of clips, `faces` which faces count as lost. Prints a Markdown table, and last the
worst values of the two-person rows; `--output` writes JSON.
"""

from collections.abc import Sequence

from benchmarks.report import cli_args
from src.command_line import Parser, launch, whole_number


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.quality.lipsync", __doc__)
    parser.add_argument("--clips", type=whole_number(), default=40, help="clips per row")
    parser.add_argument(
        "--rows", nargs="*", metavar="ROW", help="rows to measure, by their names in the table (default: all)"
    )
    parser.add_argument(
        "--long-clips", type=whole_number(), help="clips per row of several chunks (default: --clips, at most 24 of 20)"
    )
    parser.add_argument("--jobs", type=whole_number(), default=1, help="rows measured in parallel")
    parser.add_argument(
        "--vae", action="store_true", help="also measure the ground truth encoded and decoded by the VAE"
    )
    parser.add_argument(
        "--no-ablation", "--no-influences", action="store_true", help="skip the conditioning ablation and the prompts"
    )
    parser.add_output("--output", help="JSON file to write (default: none)")
    cli_args.add_arguments(parser)
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.quality.lipsync", make_parser)

import argparse
import json
import logging
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from statistics import mean
from typing import Any

from benchmarks.baseline.puppet import Puppet
from benchmarks.quality import conditioning_ablation
from benchmarks.quality.clips import ROWS, VOICE_KINDS, Row, draw_clip
from benchmarks.quality.faces import PARTS
from benchmarks.quality.metrics import Metrics, compute_metrics
from benchmarks.report.environment import environment, write_result
from benchmarks.report.tables import format_number, markdown_table
from wan.sampling.options import SamplingOptions

logger = logging.getLogger(__name__)

MIN_OWN = 0.90
"""Goal of the own correlation."""
MAX_ABS = {"other": 0.15, "shuffled": 0.10, "lag": 1, "silent_mean": 0.05, "silent_std": 0.05}
"""Goals of other metrics: maximum absolute value."""
MIN_SHARPNESS, MAX_BACKGROUND = 0.9, 3.0
"""Goals of rows of several chunks. No face may be lost."""
_LONG_CHUNKS, _LONG_CLIPS = 5, 24
"""Rows of more chunks have fewer clips."""
COLUMNS = (
    "row",
    "own",
    "of clips",
    "lag",
    "other",
    "shuffled",
    "silent mouths",
    "drift",
    "PSNR dB",
    "chunks",
    "faces lost, %",
    "weakest part",
    "sharpness",
    "background",
    "s/clip",
)
_MAX_ABLATION_CLIPS = 8


def measure_row(
    puppet: Puppet, options: SamplingOptions, row: Row, clips: int, seed: int, vae: bool = False
) -> Metrics:
    """Metrics of the model, of the ground truth, and with `vae` of the ground truth encoded and decoded."""
    drawn = [draw_clip(row, seed, index) for index in range(clips)]
    truths = [clip.ground_truth() for clip in drawn]
    generated = [puppet.generate(clip, options) for clip in drawn]
    metrics = {
        "clips": clips,
        "model": compute_metrics(drawn, [each.frames for each in generated]),
        "truth": compute_metrics(drawn, truths),
        "seconds_per_clip": mean(each.seconds for each in generated),
        "frames": row.num_frames,
    }
    if vae:
        metrics["vae"] = compute_metrics(drawn, [puppet.vae_round_trip(truth) for truth in truths])
    return metrics


def format_row(name: str, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of the table, ground truth in parentheses."""
    model, truth = metrics["model"], metrics["truth"]

    def both(key: str, digits: int = 2) -> str:
        return f"{format_number(model[key], digits)} ({format_number(truth[key], digits)})"

    chunks = ""
    if "own_first_chunk" in model:
        chunks = f"{format_number(model['own_first_chunk'])} to {format_number(model['own_last_chunk'])}"
    return (
        name,
        both("own"),
        format_number(model["own_mean_of_clips"]),
        format_number(model["lag"], 0),
        both("other"),
        both("shuffled"),
        f"{format_number(model['silent_mean'])} ± {format_number(model['silent_std'])}",
        both("drift", 1),
        both("psnr", 1),
        chunks,
        *_format_faces(model["faces"], truth["faces"]),
        format_number(model.get("sharpness")),
        format_number(model["background"], 1),
        format_number(metrics["seconds_per_clip"], 1),
    )


def _format_faces(model: Mapping[str, Any], truth: Mapping[str, Any]) -> tuple[str, str]:
    """Lost faces after 5, 10 and 20 chunks, as far as there are, and the part of the lowest contrast at the end."""
    counts = [count for count in model if count != "1"]
    lost = [" / ".join(format_number(100 * faces[count]["lost"], 0) for count in counts) for faces in (model, truth)]
    end, true_end = list(model.values())[-1], list(truth.values())[-1]
    weakest = min((part for part in PARTS if end[part] is not None), key=lambda part: end[part])
    weakness = f"{weakest} {format_number(end[weakest])} ({format_number(true_end[weakest])})"
    return f"{lost[0]} ({lost[1]})" if counts else "", weakness


def worst_values(results: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Row]) -> tuple[float, float, int]:
    """Lowest own correlation, largest absolute other correlation and lag of the two-person rows; NaN without any."""
    models = [metrics["model"] for name, metrics in results.items() if rows[name].persons == 2]
    owns, others, lags = ([model[key] for model in models if model[key] is not None] for key in ("own", "other", "lag"))
    nan = float("nan")
    return min(owns, default=nan), max(others, key=abs, default=nan), int(max(lags, key=abs, default=0))


def missed_goals(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Goals that a row does not meet, one line each."""
    missed = []
    for name, metrics in results.items():
        model = metrics["model"]
        if model["own"] is not None and model["own"] < MIN_OWN:
            missed.append(f"{name}: own is {model['own']:.2f}, the goal is at least {MIN_OWN:.2f}")
        missed += [
            f"{name}: {key} is {model[key]:.2f}, the goal is at most {limit:.2f}"
            for key, limit in MAX_ABS.items()
            if model[key] is not None and abs(model[key]) > limit
        ]
        if model.get("sharpness") is not None and model["sharpness"] < MIN_SHARPNESS:
            missed.append(f"{name}: sharpness is {model['sharpness']:.2f}, the goal is at least {MIN_SHARPNESS:.2f}")
        if model.get("background") is not None and model["background"] > MAX_BACKGROUND:
            missed.append(f"{name}: the background changes by {model['background']:.1f}, at most {MAX_BACKGROUND:.0f}")
        missed += [
            f"{name}: {100 * at['lost']:.0f} % of the faces are lost after chunk {count}"
            for count, at in model.get("faces", {}).items()
            if at["lost"] > 0
        ]
    return missed


def measure_rows(rows: Mapping[str, Row], args: argparse.Namespace) -> Iterator[tuple[str, Metrics]]:
    """Measure rows in parallel; yields them in order."""
    with ProcessPoolExecutor(
        args.jobs, multiprocessing.get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        futures = {name: pool.submit(_measure_row, row, args) for name, row in rows.items()}
        try:
            for name, future in futures.items():
                yield name, future.result()
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()  # a row takes minutes
            raise


def _measure_row(row: Row, args: argparse.Namespace) -> Metrics:
    if row.conditioning != "multitalk":
        args = argparse.Namespace(**vars(args) | {"model": "infinitetalk-puppet"})
    puppet = cli_args.load_puppet(args)
    clips = args.clips
    if row.num_chunks > 1 and args.long_clips is not None:
        clips = args.long_clips
    elif row.num_chunks > _LONG_CHUNKS:
        clips = min(clips, _LONG_CLIPS)
    return measure_row(puppet, cli_args.sampling_options(puppet, args), row, clips, args.seed, args.vae)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if unknown := set(args.rows or ()) - {row.name for row in ROWS}:
        parser.error(f"unknown rows: {', '.join(sorted(unknown))}; allowed are {', '.join(row.name for row in ROWS)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    puppet = cli_args.load_puppet(args)
    options = cli_args.sampling_options(puppet, args)
    rows = {row.name: row for row in ROWS if args.rows is None or row.name in args.rows}
    document: dict[str, Any] = {
        **environment("benchmarks.quality.lipsync"),
        "voices": VOICE_KINDS,
        "options": asdict(options),
        "rows": {},
    }
    logger.info("%s", markdown_table(COLUMNS, []))
    for name, metrics in measure_rows(rows, args):
        document["rows"][name] = metrics
        logger.info("%s", markdown_table(format_row(name, metrics), []).splitlines()[0])
    if not args.no_ablation:
        count = min(args.clips, _MAX_ABLATION_CLIPS)
        document["without"] = conditioning_ablation.ablate_conditioning(puppet, options, count, args.seed)
        document["prompts"] = conditioning_ablation.measure_prompts(puppet, options, count, args.seed)
        logger.info("%s", json.dumps({key: document[key] for key in ("without", "prompts")}, indent=2))
    document["missed_goals"] = missed_goals(document["rows"])
    for goal in document["missed_goals"]:
        logger.info("missed goal: %s", goal)
    own, other, lag = worst_values(document["rows"], rows)
    document["worst"] = {"own": own, "other": other, "lag": lag}
    if args.output is not None:
        write_result(args.output, document)
    logger.info("own=%.3f other=%.3f lag=%d", own, other, lag)
