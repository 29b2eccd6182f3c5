"""Where the time of a transformer block goes, by its modules and the functions of `wan.modules` that they call.

Nothing is known here of what a block does: every submodule is hooked and every function of those packages that a block
may call is wrapped, whatever its name. A span's own seconds are those of no span inside it.
"""

import importlib
import inspect
import pkgutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any
from unittest import mock

import torch
from torch import nn

import wan.modules

Path = tuple[str, ...]

STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("qkv", ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.qkv", "split_heads")),
    ("rope", ("self_attn.norm_q", "self_attn.norm_k", "rotate", "normed_rotation", "norm_rotate")),
    ("output", ("self_attn.o",)),
    ("self-attention", ("self_attn",)),
    ("cross-attention", ("cross_attn",)),
    ("labels", ("speaker_labels",)),
    ("audio", ("audio_cross_attn",)),
    ("ffn", ("ffn",)),
    ("norms", ("norm1", "norm2", "norm3", "norm_x", "gated_residual", "")),
)
"""Which span belongs to which stage of `floors.block_work`, by its name, or that of the outermost span around it; the
block's own time, the empty name, goes into sums. What is not listed is a stage of its own name."""

METHODS = ("self_attend", "cross_attend", "add_norm")
"""What is called of a block and its modules besides their forward."""
KERNELS = "wan.modules.kernels"


@dataclass(slots=True)
class Span:
    """One call: a name, marks at both ends, and the calls inside."""

    name: str
    start: Any
    stop: Any = None
    inside: list["Span"] = field(default_factory=list)


class Timeline:
    """Spans on one device, by its events, or on a processor by its clock."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._open = [Span("", None)]

    @property
    def spans(self) -> list[Span]:
        """The outermost ones."""
        return self._open[0].inside

    def enter(self, name: str) -> None:
        """Begin a span."""
        span = Span(name, self._mark())
        self._open[-1].inside.append(span)
        self._open.append(span)

    def leave(self) -> None:
        """End the innermost span."""
        self._open.pop().stop = self._mark()

    def seconds(self, span: Span) -> float:
        """From one end to the other; the device must have been waited for."""
        if self.device.type == "cuda":
            return float(span.start.elapsed_time(span.stop)) / 1e3
        return float(span.stop - span.start)

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def stages_of(timeline: Timeline) -> dict[str, float]:
    """Seconds by stage, over all spans of the block; functions are called outside it too."""
    found: dict[str, float] = defaultdict(float)

    def add(span: Span, path: Path) -> None:
        path = (*path, span.name)
        own = timeline.seconds(span) - sum(timeline.seconds(each) for each in span.inside)
        found[stage_of(path)] += own
        for each in span.inside:
            add(each, path)

    for span in timeline.spans:
        if span.name == "":
            add(span, ())
    return dict(found)


def stage_of(path: Path) -> str:
    """The stage of a span, named from the outermost around it to itself; the block itself is the first."""
    inner = path[1:] or ("",)
    for name in (inner[-1], inner[0]):
        for stage, names in STAGES:
            if name in names and (name == inner[0] or name.startswith("self_attn.")):
                return stage
    return inner[0]


@contextmanager
def watched(block: nn.Module, timeline: Timeline) -> Iterator[None]:
    """Every call of the block's parts, its modules, and the functions that these call becomes a span."""
    with ExitStack() as stack:
        for name, module in block.named_modules():
            for method in METHODS:
                if callable(function := getattr(module, method, None)):
                    stack.enter_context(mock.patch.object(module, method, timed(function, timeline, name)))
            if module is block:  # it is called by its two parts
                continue
            before = module.register_forward_pre_hook(lambda *_, name=name: timeline.enter(name))
            after = module.register_forward_hook(lambda *_: timeline.leave())
            stack.callback(before.remove)
            stack.callback(after.remove)
        for place, name, function in functions():
            stack.enter_context(mock.patch.object(place, name, timed(function, timeline, name)))
        yield


def functions() -> list[tuple[Any, str, Callable[..., Any]]]:
    """Where a function of `wan.modules` is known under which name: where it is written, and where it is imported.

    Left out are kernels, which are no stages of their own and cannot be imported everywhere, and what torch.compile
    puts there, which belongs to no module.
    """
    packages = pkgutil.walk_packages(wan.modules.__path__, "wan.modules.")
    places = [importlib.import_module(each.name) for each in packages if not each.name.startswith(KERNELS)]
    return [
        (place, name, value)
        for place in places
        for name, value in vars(place).items()
        if inspect.isfunction(value) and (value.__module__ or "").startswith("wan.modules.")
    ]


def timed(function: Callable[..., Any], timeline: Timeline, name: str) -> Callable[..., Any]:
    """The function as a span of a name."""

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        timeline.enter(name)
        try:
            return function(*arguments, **named)
        finally:
            timeline.leave()

    return call
