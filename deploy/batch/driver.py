"""A file of requests to a file of results, over the GPUs of one machine or of many: `python -m deploy.batch.driver`.

Ray keeps the workers, each with one warm model. A worker that dies is replaced and its request tried again; a batch
that dies is started again with the same command, and goes on where it was.
"""

import argparse
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from deploy.batch.files import BatchTask, Journal, Record, journal, read_tasks, require_distinct
from deploy.batch.worker import BatchWorker
from src.errors import InputError
from src.serving import logs

logger = logging.getLogger("deploy.batch.driver")

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_ATTEMPTS = 3
LOCAL_STORE = 80 * 2**20
"""Ray's shared memory on a machine of its own: records are small, videos never pass through it."""


class BatchError(RuntimeError):
    """The batch cannot go on: no worker can be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How many workers, what each takes of a machine, and how often a request is tried."""

    workers: int
    gpus: float = 0.0
    attempts: int = MAX_ATTEMPTS


class WorkerPool:
    """The workers of a batch, and what each of them is at."""

    def __init__(self, make: Callable[[], Any], plan: BatchOptions) -> None:
        self.make = make
        self.plan = plan
        self.idle: list[Any] = [make() for _ in range(plan.workers)]
        self.busy: dict[Any, tuple[Any, BatchTask]] = {}
        try:
            ray.get([worker.ready.remote() for worker in self.idle])
        except RayError as error:
            raise BatchError(f"no worker can be made: {short_error(error)}") from error

    def assign(self, task: BatchTask) -> None:
        """Give a request to an idle worker."""
        worker = self.idle.pop()
        self.busy[worker.work.remote(task)] = (worker, task)

    def next(self) -> tuple[BatchTask, Record | Exception]:
        """Wait for a request to end: its record, or what went wrong. A worker that died is replaced."""
        (done,), _ = ray.wait(list(self.busy), num_returns=1)
        worker, task = self.busy.pop(done)
        try:
            record: Record = ray.get(done)
        except RayActorError as error:
            logger.warning("a worker died at request %s", task.id)
            self.idle.append(self.replace())
            return task, error
        except RayError as error:
            self.idle.append(worker)
            return task, error
        self.idle.append(worker)
        return task, record

    def replace(self) -> Any:
        """A new worker for one that died."""
        worker = self.make()
        try:
            ray.get(worker.ready.remote())
        except RayError as error:
            raise BatchError(f"a worker died and no other can be made: {short_error(error)}") from error
        return worker

    def dismiss(self) -> None:
        """End the workers, whatever they are at."""
        for worker in [*self.idle, *(worker for worker, _ in self.busy.values())]:
            ray.kill(worker)


def run(tasks: Sequence[BatchTask], results: Journal, make: Callable[[], Any], plan: BatchOptions) -> None:
    """Work through the requests, and write a line for each that has ended."""
    if not tasks:
        return
    crew = WorkerPool(make, replace(plan, workers=min(plan.workers, len(tasks))))
    try:
        run_all(tasks, results, crew)
    finally:
        crew.dismiss()


def run_all(tasks: Sequence[BatchTask], results: Journal, crew: WorkerPool) -> None:
    """Every request to its end."""
    waiting, tried = deque(tasks), Counter[str]()
    while waiting or crew.busy:
        while waiting and crew.idle:
            task = waiting.popleft()
            tried[task.id] += 1
            crew.assign(task)
        task, outcome = crew.next()
        if not isinstance(outcome, Exception):
            results.write({**outcome, "attempts": tried[task.id]})
        elif tried[task.id] < crew.plan.attempts:
            waiting.append(task)
        else:
            failed = {"id": task.id, "digest": task.digest, "status": "failed", "error": short_error(outcome)}
            results.write({**failed, "attempts": tried[task.id]})
        logger.info("%d requests have ended, %d are open", len(results.records), len(waiting) + len(crew.busy))


def short_error(error: Exception) -> str:
    """What happened, without Ray's account of where."""
    cause = getattr(error, "cause", None) or error
    last = [line for line in str(cause).strip().splitlines() if line.strip()][-1:]
    return f"{type(cause).__name__}: {last[0].strip() if last else ''}"


def worker_maker(kind: type[BatchWorker], output: str, gpus: float) -> Callable[[], Any]:
    """Makes workers of a kind, each a process of its own with its share of the GPUs."""
    remote: Any = ray.remote(num_cpus=0, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")(kind)
    return lambda: remote.remote(output)


def start_ray(address: str | None) -> None:
    """Join the cluster at an address, or start one on this machine. The code lies at the same place everywhere."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    environment = {"env_vars": {"PYTHONPATH": str(REPOSITORY)}}
    local: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": LOCAL_STORE}
    ray.init(address=address, runtime_env=environment, log_to_driver=True, **local)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 when every request succeeded, 1 when some failed, 2 when the batch could not go on."""
    options = parser().parse_args(argv)
    logs.configure(os.environ)
    try:
        tasks = read_tasks(options.requests)
        require_distinct(options.requests, options.results)
        with journal(options.results) as results:
            pending = results.open_tasks(tasks, again=options.again)
            logger.info("%d requests, %d of them have no result yet", len(tasks), len(pending))
            start_ray(options.address)
            plan = make_plan(options, ray.cluster_resources().get("GPU", 0.0))
            from deploy.batch.model import ModelWorker  # brings torch, which only the workers need

            run(pending, results, worker_maker(ModelWorker, options.output, plan.gpus), plan)
            statuses = Counter(results.records[task.id]["status"] for task in tasks)
    except (InputError, BatchError, OSError) as error:
        logger.error("%s", error)
        return 2
    finally:
        ray.shutdown()
    logger.info("%d succeeded, %d failed", statuses["succeeded"], statuses["failed"])
    return 1 if statuses["failed"] else 0


def make_plan(options: argparse.Namespace, gpus: float) -> BatchOptions:
    """One worker for each of the GPUs that are there, or as asked. BatchError for more than this machine has: they
    would wait for ever, while a cluster may grow."""
    share = min(1.0, gpus) if options.gpus_per_worker is None else options.gpus_per_worker
    plan = BatchOptions(workers=options.workers or max(1, int(gpus)), gpus=share, attempts=options.attempts)
    if options.address is None and plan.workers * plan.gpus > gpus:
        raise BatchError(
            f"{plan.workers} workers need {plan.workers * plan.gpus:g} GPUs, {gpus:g} are there; fewer --workers or a "
            "smaller --gpus-per-worker are needed, or a cluster (--address)"
        )
    return plan


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    command = argparse.ArgumentParser(prog="python -m deploy.batch.driver", description=__doc__)
    command.add_argument("requests", type=Path, help="a line of JSON for each request: id, and the predictor's inputs")
    command.add_argument("results", type=Path, help="a line of JSON for each result; what is there is not done again")
    command.add_argument("--output", required=True, help="where videos go: a folder, or s3://bucket/prefix")
    command.add_argument("--workers", type=positive, help="how many (default: one for each GPU)")
    command.add_argument("--gpus-per-worker", type=float, help="default: 1, and 0 where there is none")
    command.add_argument(
        "--attempts", type=positive, default=MAX_ATTEMPTS, help=f"for each request (default: {MAX_ATTEMPTS})"
    )
    command.add_argument("--again", action="store_true", help="try again what has failed before")
    command.add_argument("--address", help="of a Ray cluster; without it this machine alone")
    return command
