"""Loads the heavy libraries once, before Airflow's LocalExecutor forks its workers.

Every task is a fork of a worker, and every worker a fork of the scheduler. Loading MLflow, pandas,
Great Expectations and onnxruntime costs a task 2 to 5 s on two cores; loaded in the scheduler before it
forks, all tasks inherit them as shared pages (docs/decisions/0060). Loading starts no Python thread, and the
BLAS libraries restore theirs after a fork. With an executor that forks nothing, this does nothing.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
import time
from collections.abc import Iterable, Sequence

from airflow.listeners import hookimpl

from slipway_airflow import pools, run_filter

log = logging.getLogger(__name__)

# What the tasks of a release import, Airflow's own start-up of a task first.
MODULES = (
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.dagbag",
    "airflow.dag_processing.bundles.local",
    "pandas",
    "pyarrow.parquet",
    "onnx",
    "onnxruntime.quantization",
    "mlflow",
    "great_expectations",
    "matplotlib.figure",
)


def preload(modules: Iterable[str] = MODULES) -> list[str]:
    """Import what is there and skip what is not; returns the names that could not be loaded."""
    missing: list[str] = []
    started = time.monotonic()
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:
            # A library that does not load here fails the task that needs it, with that task's words.
            log.warning("could not load %s ahead of the tasks", name, exc_info=True)
            missing.append(name)
    # What is loaded now lives as long as the workers: collecting it later would only unshare its pages.
    gc.collect()
    log.info("loaded the libraries of release tasks in %.1f s", time.monotonic() - started)
    return missing


def is_forking_scheduler(argv: Sequence[str], executor: str) -> bool:
    """Whether this process is a scheduler whose tasks will be forks of it."""
    return "scheduler" in argv[1:2] and executor.rpartition(".")[2] == "LocalExecutor"


class PreloadListener:
    """Airflow's listener for components that start. A scheduler says so before it starts its executor."""

    @hookimpl
    def on_starting(self, component: object) -> None:
        from airflow.configuration import conf

        if type(component).__name__ != "Job" or "scheduler" not in sys.argv[1:2]:
            return
        # Before a task that names one is scheduled: it would wait for ever for a pool that is missing.
        pools.make_missing(conf.getint("core", "parallelism"))
        if conf.getboolean("slipway", "examine_every_run", fallback=False):
            log.info("every run is examined in every loop, as set")
        else:
            run_filter.examine_only_changed_runs()
        if is_forking_scheduler(sys.argv, conf.get("core", "executor")):
            preload()
