"""Profile a transformer block by spans: calls of its submodules and of the functions of `wan.modules`.

Every submodule is hooked and every function of `wan.modules` is wrapped, so a new function shows up without changes
here. The self time of a span excludes nested spans.
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

SpanPath = tuple[str, ...]

STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("qkv", ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.qkv", "split_heads", "apply_linears")),
    ("rope", ("self_attn.norm_q", "self_attn.norm_k", "apply_rope")),
    ("output", ("self_attn.o",)),
    ("self-attention", ("self_attn",)),
    ("cross-attention", ("cross_attn",)),
    ("labels", ("speaker_labels",)),
    ("audio", ("audio_cross_attn",)),
    ("ffn", ("ffn",)),
    ("norms", ("norm1", "norm2", "norm3", "norm_x", "gated_residual", "")),
)
"""Span names of every stage of `roofline.block_work`. A span is matched by its own name, then by that of its outermost
parent; the block itself has the empty name. A span that is not listed becomes a stage of its own name."""

METHODS = ("self_attend", "cross_attend", "add_norm")
"""Methods of a block and its submodules that are called besides `forward`."""
KERNELS_PACKAGE = "wan.modules.kernels"


@dataclass(slots=True)
class Span:
    """One call: name, start and end marks (CUDA events or seconds), and nested calls."""

    name: str
    start: Any
    end: Any = None
    children: list["Span"] = field(default_factory=list)


class SpanRecorder:
    """Records nested spans with CUDA events, or with the clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stack = [Span("", None)]

    @property
    def spans(self) -> list[Span]:
        """The outermost spans."""
        return self._stack[0].children

    def push(self, name: str) -> None:
        """Start a span inside the current one."""
        span = Span(name, self._mark())
        self._stack[-1].children.append(span)
        self._stack.append(span)

    def pop(self) -> None:
        """End the innermost span."""
        self._stack.pop().end = self._mark()

    def seconds(self, span: Span) -> float:
        """Duration of a span; the device must be synchronized."""
        if self.device.type == "cuda":
            return float(span.start.elapsed_time(span.end)) / 1e3
        return float(span.end - span.start)

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def seconds_by_stage(recorder: SpanRecorder) -> dict[str, float]:
    """Self time by stage of all spans inside calls of the block."""
    seconds: dict[str, float] = defaultdict(float)

    def add(span: Span, path: SpanPath) -> None:
        path = (*path, span.name)
        self_time = recorder.seconds(span) - sum(recorder.seconds(child) for child in span.children)
        seconds[stage_of(path)] += self_time
        for child in span.children:
            add(child, path)

    for span in recorder.spans:
        if span.name == "":
            add(span, ())
    return dict(seconds)


def stage_of(path: SpanPath) -> str:
    """Stage of a span, given the names from the block (first) through its parents to itself (last)."""
    inner = path[1:] or ("",)
    for name in (inner[-1], inner[0]):
        for stage, names in STAGES:
            if name in names and (name == inner[0] or name.startswith("self_attn.")):
                return stage
    return inner[0]


@contextmanager
def instrument(block: nn.Module, recorder: SpanRecorder) -> Iterator[None]:
    """Record every call of the block's methods, its submodules and the functions of `wan.modules` as a span."""
    with ExitStack() as stack:
        for name, module in block.named_modules():
            for method in METHODS:
                if callable(function := getattr(module, method, None)):
                    stack.enter_context(mock.patch.object(module, method, recorded(function, recorder, name)))
            if module is block:  # only its METHODS are called
                continue
            before = module.register_forward_pre_hook(lambda *_, name=name: recorder.push(name))
            after = module.register_forward_hook(lambda *_: recorder.pop())
            stack.callback(before.remove)
            stack.callback(after.remove)
        for module, name, function in module_functions():
            stack.enter_context(mock.patch.object(module, name, recorded(function, recorder, name)))
        yield


def module_functions() -> list[tuple[Any, str, Callable[..., Any]]]:
    """All (module, attribute, function) of `wan.modules`, both where a function is defined and where it is imported.

    Excludes kernels, which need Triton, and functions added by torch.compile, which have no module.
    """
    packages = pkgutil.walk_packages(wan.modules.__path__, "wan.modules.")
    modules = [importlib.import_module(each.name) for each in packages if not each.name.startswith(KERNELS_PACKAGE)]
    return [
        (module, name, value)
        for module in modules
        for name, value in vars(module).items()
        if inspect.isfunction(value) and (value.__module__ or "").startswith("wan.modules.")
    ]


def recorded(function: Callable[..., Any], recorder: SpanRecorder, name: str) -> Callable[..., Any]:
    """Wrap a function to record its calls as spans."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        recorder.push(name)
        try:
            return function(*args, **kwargs)
        finally:
            recorder.pop()

    return call
