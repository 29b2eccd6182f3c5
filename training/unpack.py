"""`python -m training.unpack MODEL RUNS`: make training runs of a finished model, to continue from its weights.

The inverse of `training.export`: every network of the folder MODEL that the edition has as well becomes a run without
steps. The heads with which the encoders are trained are not part of a model and start anew.
"""

from collections.abc import Sequence

from src.command_line import Parser, existing_folder, launch, log_messages, output_folder


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m training.unpack", __doc__)
    parser.add_argument(
        "folder", type=existing_folder, metavar="MODEL", help="a finished model such as models/multitalk-puppet"
    )
    parser.add_argument("runs", type=output_folder, metavar="RUNS", help="folder of the training runs")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("training.unpack", make_parser)

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from training.components import CONFIG
from training.distil import make_student, student_state_dict
from training.encoders import build
from training.training_loop import save_initial_weights
from wan.checkpoint import load_models
from wan.configs import WAN_CONFIGS


def unpack(folder: Path, runs: Path) -> None:
    """Write the runs. Raises FileExistsError rather than overwrite one."""
    config = WAN_CONFIGS[CONFIG.name]
    models = load_models(config, folder, torch.device("cpu"))
    speech = Wav2Vec2Model.from_pretrained(folder / CONFIG.files.speech, local_files_only=True)
    save_initial_weights(runs / "transformer", models.transformer.state_dict())
    if config.vae == CONFIG.vae:
        save_initial_weights(runs / "vae", models.vae.model.state_dict())
    for name, encoder in (
        ("speech", speech),
        ("text", models.text_encoder.model),
        ("image", models.image_encoder.model),
    ):
        save_initial_weights(runs / name, _with_head(name, encoder.state_dict()))
    lora = folder / "loras" / "distilled.safetensors"
    if config.vae == CONFIG.vae and lora.exists():
        student = make_student(models.transformer)
        save_initial_weights(runs / "distilled", student.state_dict() | student_state_dict(load_file(lora)))


def _with_head(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of an encoder's training run, with an untrained head."""
    untrained = build(name, seed=0)[0].state_dict()
    return untrained | {f"encoder.{key}": value for key, value in state.items() if f"encoder.{key}" in untrained}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    options = make_parser().parse_args(argv)
    log_messages()
    unpack(options.folder, options.runs)
