"""`python -m app.plan --gpu 24 --ram 64`: what a machine needs and does, before anything is downloaded.

Prints the offload plan, memory of the GPU and of the host, disk, time, and what does not fit. Bytes are counted on the
meta device; seconds are estimated from data sheets. The exit status is 1 if the video does not fit.
"""

from collections.abc import Sequence

from src.command_line import Parser, launch, number
from wan.configs import WAN_CONFIGS

LARGE_MODELS = tuple(name for name, config in WAN_CONFIGS.items() if config.needs_gpu)


def make_parser() -> Parser:
    """The command line."""
    positive = number(above=True)
    parser = Parser("-m app.plan", __doc__)
    parser.add_argument("--gpu", type=positive, required=True, metavar="GB", help="memory of the GPU in 10^9 bytes")
    parser.add_argument("--ram", type=positive, default=64, metavar="GB", help="memory of the machine in 10^9 bytes")
    parser.add_argument("--model", default=LARGE_MODELS[0], choices=LARGE_MODELS, help="as MULTITALK_MODEL")
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp8", "int8"), help="as MULTITALK_DTYPE")
    parser.add_argument("--resolution", default="480p", choices=("480p", "720p"), help="size class of the video")
    parser.add_argument("--persons", type=int, default=1, choices=(1, 2), help="number of speakers")
    parser.add_argument("--seconds", type=positive, default=10.0, help="length of the video")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("app.plan", make_parser)

import sys

from app.prediction import GB, PRESET, PROCESS_BYTES, Prediction, Recipe, gigabytes, predict
from wan.offload.plan import MARGIN


def render(prediction: Prediction) -> str:
    """The prediction as text."""
    recipe, plan = prediction.recipe, prediction.plan
    size = f"{recipe.size.height} x {recipe.size.width}, {recipe.num_persons} person{'s' * (recipe.num_persons > 1)}"
    peaks = ", ".join(f"{stage} {gigabytes(peak)}" for stage, peak in prediction.stage_peaks.items())
    peak = max(prediction.stage_peaks.values())
    originals = gigabytes(prediction.lora_originals)
    lora = f", and up to {originals} while a LoRA is merged, as in the preset fast" * (prediction.lora_originals > 0)
    lines = [
        f"{recipe.model}, {recipe.precision}, {recipe.resolution}, {size}",
        "",
        f"plan         {plan or 'none fits; the smallest needs:'}",
        f"GPU memory   {gigabytes(peak)} of {gigabytes(recipe.free)}, {MARGIN:.0%} more is kept free for workspaces",
        f"  by stage   {peaks}",
        f"host memory  {gigabytes(prediction.host)} of {gigabytes(recipe.ram)}{lora}",
        f"disk         {gigabytes(prediction.download)} to download, or {gigabytes(prediction.converted)} converted",
    ]
    if plan is not None:
        lines.append(
            f"time         about {prediction.seconds / 60:.1f} minutes for {recipe.seconds:g} s of video, "
            f"preset {PRESET}, {prediction.card.name}"
        )
    lines += [f"does not fit: {fault}" for fault in prediction.faults]
    lines += [
        "",
        f"Sizes are counted, but for {gigabytes(PROCESS_BYTES)} of the process itself; the time is estimated.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = make_parser().parse_args(argv)
    prediction = predict(
        Recipe(
            gpu=round(options.gpu * GB),
            ram=round(options.ram * GB),
            model=options.model,
            precision=options.dtype,
            resolution=options.resolution,
            num_persons=options.persons,
            seconds=options.seconds,
        )
    )
    sys.stdout.write(render(prediction) + "\n")
    return 1 if prediction.faults else 0
