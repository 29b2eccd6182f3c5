"""Read a file of requests and write a file of results, over the GPUs of one machine or of a Ray cluster.

Ray restarts workers that crash and retries their requests. A batch that is interrupted resumes when the same command
is run again.
"""

import argparse
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from deploy.batch.arguments import MAX_ATTEMPTS, make_parser
from deploy.batch.files import BatchTask, Journal, Record, open_journal, read_tasks, require_distinct
from deploy.batch.worker import BatchWorker
from src.command_line import INTERRUPTED, REPOSITORY
from src.errors import InputError
from src.serving import logs

logger = logging.getLogger(__name__)

MAX_RESTARTS = 20
"""Crashes of one worker after which the batch stops, so that a worker that crashes while it loads is noticed."""
OBJECT_STORE_BYTES = 80 * 2**20
"""Size of Ray's shared memory on a single machine: records are small and videos never pass through it."""


class BatchError(RuntimeError):
    """The batch cannot continue, because a worker cannot be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Number of workers, GPUs for each, and how often a request is attempted."""

    num_workers: int
    gpus_per_worker: float = 0.0
    max_attempts: int = MAX_ATTEMPTS


def run(tasks: Sequence[BatchTask], results: Journal, make_worker: Callable[[], Any], options: BatchOptions) -> None:
    """Process every request, each worker one at a time, and write results in the order of completion.

    Raises BatchError when a worker cannot be started or restarted.
    """
    queue = list(reversed(tasks))
    workers = [make_worker() for _ in range(min(options.num_workers, len(tasks)))]
    running: dict[Any, tuple[Any, BatchTask]] = {}

    def start_next(worker: Any) -> None:
        if queue:
            task = queue.pop()
            running[worker.run.remote(task)] = worker, task

    wait_until_loaded(workers)
    for worker in workers:
        start_next(worker)
    while running:
        (finished,), _ = ray.wait(list(running))
        worker, task = running.pop(finished)
        results.write(get_record(finished, task, options.max_attempts))
        start_next(worker)
        logger.info("%d requests finished, %d left", len(results.records), len(queue) + len(running))


def wait_until_loaded(workers: Sequence[Any]) -> None:
    """Return once every worker's constructor has. BatchError when one raises."""
    try:
        ray.get([worker.__ray_ready__.remote() for worker in workers])
    except RayError as error:
        raise BatchError(f"a worker cannot be started: {short_error(error)}") from error


def get_record(finished: Any, task: BatchTask, max_attempts: int) -> Record:
    """The record of a finished request; of a failed one if its last attempt raised or crashed the worker."""
    try:
        record: Record = ray.get(finished)
    except ActorDiedError as error:
        raise BatchError(f"a worker crashed and cannot be restarted: {short_error(error)}") from error
    except RayError as error:
        failed = {"id": task.id, "digest": task.digest, "status": "failed", "error": short_error(error)}
        return {**failed, "attempts": max_attempts}
    return record


def short_error(error: Exception) -> str:
    """The type and the last line of an exception, without Ray's traceback."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else ''}"


def worker_factory(kind: type[BatchWorker], output: str, options: BatchOptions) -> Callable[[], Any]:
    """Returns a function that starts a worker in a process of its own, with its share of the GPUs."""
    remote: Any = ray.remote(
        num_cpus=0,
        num_gpus=options.gpus_per_worker,
        max_restarts=MAX_RESTARTS,
        max_task_retries=options.max_attempts - 1,
        scheduling_strategy="SPREAD",
    )(kind)
    return lambda: remote.remote(output)


def start_ray(address: str | None) -> None:
    """Join the cluster at an address, which has the code at the same path, or start one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    environment = {"env_vars": {"PYTHONPATH": str(REPOSITORY)}}
    local: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    ray.init(address=address, runtime_env=environment, log_to_driver=True, **local)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Exit status 0: every request succeeded; 1: some failed; 2: the batch could not continue."""
    arguments = make_parser().parse_args(argv)
    logs.configure(os.environ)
    try:
        tasks = read_tasks(arguments.requests)
        require_distinct(arguments.requests, arguments.results)
        with open_journal(arguments.results) as results:
            pending = results.pending(tasks, retry_failed=arguments.retry_failed)
            logger.info("%d requests, %d of them without a result", len(tasks), len(pending))
            start_ray(arguments.address)
            options = resolve_options(arguments, ray.cluster_resources().get("GPU", 0.0))
            from deploy.batch.model import ModelWorker  # imports torch, which only the workers need

            run(pending, results, worker_factory(ModelWorker, arguments.output, options), options)
            statuses = Counter(results.records[task.id]["status"] for task in tasks)
    except (InputError, BatchError, OSError) as error:
        logger.error("%s", error)
        return 2
    except KeyboardInterrupt:
        logger.error("interrupted; the same command continues the batch")
        return INTERRUPTED
    finally:
        ray.shutdown()
    logger.info("%d succeeded, %d failed", statuses["succeeded"], statuses["failed"])
    return 1 if statuses["failed"] else 0


def resolve_options(arguments: argparse.Namespace, num_gpus: float) -> BatchOptions:
    """One worker per available GPU unless the arguments say otherwise.

    BatchError for more workers than this machine has GPUs for: they would wait forever. A cluster may still grow.
    """
    share = min(1.0, num_gpus) if arguments.gpus_per_worker is None else arguments.gpus_per_worker
    num_workers = arguments.workers or max(1, int(num_gpus))
    if arguments.address is None and num_workers * share > num_gpus:
        raise BatchError(
            f"{num_workers} workers need {num_workers * share:g} GPUs, {num_gpus:g} are available; use fewer "
            "--workers, a smaller --gpus-per-worker, or a cluster (--address)"
        )
    return BatchOptions(num_workers=num_workers, gpus_per_worker=share, max_attempts=arguments.attempts)
