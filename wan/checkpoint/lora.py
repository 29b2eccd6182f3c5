"""LoRA (Hu et al. 2021): low-rank and full weight deltas, merged into a transformer and unloaded again.

Merged deltas cost nothing in a forward. The original weights are kept in host memory, so that unloading restores the
checkpoint bit for bit. They take as much memory as the changed weights: 32 GB in bfloat16 for a LoRA on every linear
layer of the 14B blocks except the audio ones, 20 GB for one on self-attention and feed-forward. The size is logged.

Merging into 8-bit weights would round small deltas to zero. For these layers the low-rank product is computed in every
forward instead: at rank 64 that is 2.5 % of a square layer's operations at the 14B width, and no originals are kept.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from wan.checkpoint.lora_deltas import WeightDelta, read_deltas
from wan.checkpoint.lora_file import Lora, LoraError, digest, identity
from wan.host_memory import HostTensor
from wan.modules.quantized import QuantizedLinear

__all__ = ["Lora", "LoraError", "LoraManager"]

logger = logging.getLogger(__name__)


ActiveKey = tuple[str | None, float, str]
"""Digest of the file (None: tensors in memory), strength and name of a LoRA."""


@dataclass(slots=True)
class LoraManager:
    """The active LoRAs of a transformer, the original weights, and the quantized layers that compute a LoRA."""

    active: tuple[Lora, ...] = ()
    originals: dict[str, HostTensor] = field(default_factory=dict)
    unmerged_layers: list[QuantizedLinear] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    """What the files of the active LoRAs hold that is ignored."""
    active_keys: tuple[ActiveKey, ...] | None = ()
    """None while the weights are changed, and after that was interrupted."""
    digests: dict[tuple[object, ...], str] = field(default_factory=dict)
    """Digests of the active files, by what identifies their content without reading them."""

    @torch.no_grad()
    def set_active(self, model: nn.Module, loras: Sequence[Lora]) -> None:
        """Make exactly these LoRAs active in `model`, starting from the checkpoint's weights.

        Files with the content of the active ones are not merged again. All files are validated before the first weight
        changes; a later failure unloads every LoRA. Raises `LoraError` for a file that does not fit.
        """
        loras = tuple(loras)
        keys, digests = self._identify(loras)
        if self.active_keys == keys and all(key[0] for key in keys):
            self.digests = digests
            return
        warnings = _warn_about_copies(keys)
        deltas: dict[str, list[WeightDelta]] = {}
        for lora in loras:
            for delta in read_deltas(model, lora, warnings):
                deltas.setdefault(delta.parameter, []).append(delta)
        self.unload(model)
        self.active_keys = None
        try:
            for name, added in deltas.items():
                layer = model.get_submodule(name.rpartition(".")[0])
                if isinstance(layer, QuantizedLinear) and name.endswith(".weight"):
                    self._set_unmerged(layer, name, added, like=next(model.parameters()))
                else:
                    self._merge(name, model.get_parameter(name), added)
        except BaseException:
            self.unload(model)
            raise
        self.active, self.active_keys, self.digests, self.warnings = loras, keys, digests, tuple(warnings)
        if loras:
            logger.info(
                "merged %s into %d weights, %d of them quantized; %d bytes of originals are kept",
                ", ".join(f"{lora} at {lora.strength:g}" for lora in loras),
                len(deltas),
                len(self.unmerged_layers),
                sum(original.tensor.nbytes for original in self.originals.values()),
            )

    @torch.no_grad()
    def unload(self, model: nn.Module) -> None:
        """Restore the checkpoint's weights bit for bit and free the originals.

        An interruption loses no original: the next call restores the rest.
        """
        self.active, self.active_keys, self.warnings = (), None, ()
        for name in list(self.originals):
            self._restore(model.get_parameter(name), self.originals[name])
            del self.originals[name]
        while self.unmerged_layers:
            self.unmerged_layers[-1].set_lora(None, None)
            self.unmerged_layers.pop()
        self.active_keys = ()

    def _identify(self, loras: Sequence[Lora]) -> tuple[tuple[ActiveKey, ...], dict[tuple[object, ...], str]]:
        """The key of each LoRA, and the digests of their files. Files that have not changed are not read again."""
        keys: list[ActiveKey] = []
        digests: dict[tuple[object, ...], str] = {}
        for lora in loras:
            content = None
            if isinstance(lora.weights, Path):
                try:
                    known = identity(lora.weights)
                    content = digests[known] = self.digests.get(known) or digest(lora.weights)
                except OSError as error:
                    raise LoraError(f"{lora} cannot be read: {error.strerror}") from error
            keys.append((content, lora.strength, str(lora)))
        return tuple(keys), digests

    def _set_unmerged(self, layer: QuantizedLinear, name: str, deltas: Iterable[WeightDelta], like: Tensor) -> None:
        """Let a quantized layer compute the low-rank product, in the dtype and on the device of `like`.

        A product whose rank exceeds the layer's inputs is multiplied out: it is then one matrix.
        """
        pairs = [(delta.factor * delta.tensors[0].float(), delta.tensors[1]) for delta in deltas]
        down = torch.cat([down.flatten(1).float() for _, down in pairs])
        up = torch.cat([up.flatten(1) for up, _ in pairs], dim=1)
        if len(down) > down.shape[1]:
            up, down = up @ down, torch.eye(down.shape[1])
        down, up = down.to(like), up.to(like)
        _check_finite(name, down, up)
        self.unmerged_layers.append(layer)
        layer.set_lora(down, up)

    def _restore(self, parameter: Tensor, original: HostTensor) -> None:
        parameter.copy_(original.tensor, non_blocking=True)
        if parameter.is_cuda:
            torch.cuda.current_stream(parameter.device).synchronize()  # then the original may be freed

    def _merge(self, name: str, parameter: Tensor, deltas: Iterable[WeightDelta]) -> None:
        original = HostTensor(parameter, page_lock=parameter.is_cuda)
        original.tensor.copy_(parameter, non_blocking=True)  # before the kernels that change the parameter
        self.originals[name] = original
        weight = parameter.to(torch.float32, copy=True)
        for delta in deltas:
            delta.add_to(weight)
        weight = weight.to(parameter.dtype)
        _check_finite(name, weight)
        parameter.copy_(weight)


def _check_finite(name: str, *tensors: Tensor) -> None:
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise LoraError(f"{name} would have NaN or Inf with these LoRAs; lower strengths are needed")


def _warn_about_copies(keys: Sequence[ActiveKey]) -> list[str]:
    """A warning for each LoRA with the content of an earlier one, which is also logged."""
    names: dict[str, str] = {}
    warnings = []
    for content, _, name in keys:
        if content is not None and content in names:
            warnings.append(f"{names[content]} and {name} have the same content: their strengths add up")
            logger.warning("%s", warnings[-1])
        names.setdefault(content or "", name)
    return warnings
