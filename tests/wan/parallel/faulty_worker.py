"""A worker whose transformer fails in the forward that MULTITALK_TEST_FAULT names, for example "2 out of memory"."""

import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import torch

from wan.modules.transformer import MultiTalkTransformer
from wan.parallel.worker import serve

COUNT, _, KIND = os.environ["MULTITALK_TEST_FAULT"].partition(" ")
forward_passes = MultiTalkTransformer.forward_passes
calls = 0


def fail_once(*args: Any) -> Any:
    """The forward of the transformer, which fails in its COUNT-th call."""
    global calls
    calls += 1
    if calls == int(COUNT):
        if KIND == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise torch.OutOfMemoryError("no memory") if KIND == "out of memory" else ValueError("a fault")
    return forward_passes(*args)


MultiTalkTransformer.forward_passes = fail_once  # type: ignore[method-assign, assignment]

if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
