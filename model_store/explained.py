"""Faults of libraries that people meet again and again: each in a plain sentence, with its own remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from model_store.errors import SlipwayError, first_line

# The IR version of onnx 1.16 (2024), which every onnxruntime since 1.18 reads.
READ_BY_ALL = 10


@dataclass(frozen=True, slots=True)
class Explained:
    """What is wrong, and what to do about it."""

    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem} ({self.remedy})"


def explain(error: BaseException, *, otherwise: str) -> Explained:
    """The error in a person's words. `otherwise` is the remedy for a fault that is not known here."""
    if isinstance(error, SlipwayError):
        return Explained(first_line(error), error.remedy)
    if isinstance(error, MemoryError):
        return Explained(first_line(error), "free memory on this machine, or make the model smaller")
    for pattern, say in _KNOWN:
        if found := pattern.search(str(error)):
            return say(found)
    return Explained(first_line(error), otherwise)


def _of(distribution: str) -> str:
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution


def _new_ir(found: re.Match[str], reader: str) -> Explained:
    has, reads = found.groups()
    # onnx may read more than onnxruntime, which will say so next.
    writes = reads if reader == "onnxruntime" else str(READ_BY_ALL)
    return Explained(
        f"the file has IR version {has}, and {_of(reader)} reads up to {reads}",
        f"export it for IR version {writes}: with an older onnx, or set model.ir_version before saving",
    )


def _new_opset(found: re.Match[str]) -> Explained:
    opset, domain, known = found.groups()
    return Explained(
        f"the file has opset {opset} of {domain}, and {_of('onnxruntime')} knows up to {known}",
        f"export it with an opset of at most {known} (torch: opset_version, skl2onnx: target_opset)",
    )


def _unknown_operator(found: re.Match[str]) -> Explained:
    operator, opset = found.groups()
    return Explained(
        f"{_of('onnx')} does not know {operator} of opset {opset}",
        "export it with operators of ONNX itself, of an opset that this onnx knows",
    )


def _no_kernel(found: re.Match[str]) -> Explained:
    operator = found.group(1)
    return Explained(
        f"{_of('onnxruntime')} has no implementation of {operator}",
        "export the model with operators and types that onnxruntime has on this device",
    )


def _beyond_protobuf(_: re.Match[str]) -> Explained:
    return Explained(
        "the model is larger than 2 GB, which is the most that one protobuf message holds",
        "make it smaller before logging it: half-precision weights, a smaller vocabulary or fewer layers",
    )


def _no_locale(found: re.Match[str]) -> Explained:
    return Explained(
        f"the model normalizes texts by the locale {found.group(1)}, which is not installed on this machine",
        "set the attribute `locale` of its StringNormalizer to C.UTF-8 (skl2onnx: the vectorizer's option"
        " locale), or install that locale here and where it is served",
    )


_KNOWN: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Explained]], ...] = (
    (
        re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)"),
        lambda found: _new_ir(found, "onnxruntime"),
    ),
    (
        re.compile(r"ir_version (\d+) is higher than the checker's \((\d+)\)"),
        lambda found: _new_ir(found, "onnx"),
    ),
    (
        re.compile(
            r"Opset (\d+) is under development.*official support for domain (\S+) is till opset (\d+)", re.S
        ),
        _new_opset,
    ),
    (re.compile(r"No Op registered for (\w+) with domain_version of (\d+)"), _unknown_operator),
    (re.compile(r"Could not find an implementation for (\S+?)(?:\(\d+\))? node"), _no_kernel),
    (re.compile(r"Failed to construct locale with name:([\w.@-]+?):"), _no_locale),
    (
        re.compile(r"maximum protobuf size of 2GB|Failed to serialize proto"),
        _beyond_protobuf,
    ),
)
