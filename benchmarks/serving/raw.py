"""The ceiling: what the engine alone does on one thread, without any server around it."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime as ort

from benchmarks.serving.models import Subject, model_file


def one_thread_session(path: str) -> ort.InferenceSession:
    """The model on the CPU, with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def raw_rows_per_second(subject: Subject, rows: int, seconds: float) -> float:
    """Rows/s of onnxruntime called in a loop with batches of `rows`."""
    session = one_thread_session(str(model_file(subject)))
    one = subject.requests()[0]
    feeds = {name: np.concatenate([array] * rows) for name, array in one.items()}
    for _ in range(5):
        session.run(None, feeds)
    start, batches = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        session.run(None, feeds)
        batches += 1
    return batches * rows / (time.perf_counter() - start)
