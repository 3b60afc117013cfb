"""What the driver tells of the first GPU that this process sees, by NVML (package nvidia-ml-py).

It needs no CUDA context. Source: NVML API reference.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def free_bytes() -> int:
    """Of the first GPU this process sees, as its driver counts; 0 where there is none to ask."""
    return _asked(lambda nvml, handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).free), 0)


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU now. `used`: share of time with a kernel, 0 to 1. `slowed_by`: what holds its clock down."""

    uuid: str
    name: str
    used: float
    memory_used_bytes: int
    memory_total_bytes: int
    celsius: int
    watts: float
    slowed_by: tuple[str, ...]
    uncorrected_errors: int


# NVML API reference, nvmlClocksEventReasons: what a person can do something about.
_SLOWED_BY = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}


def reading() -> GpuReading | None:
    """Of the first GPU this process sees; None where there is none, or it does not answer any more."""
    return _asked(_reading, None)


def lost() -> str:
    """Why the first GPU this process sees computes no more, in the driver's words; "" while it does, and
    where there is no NVML to ask.

    Of a container whose devices were taken from it NVML says "Unknown Error": only a new one helps.
    """
    try:
        import pynvml as nvml
    except ImportError:
        return ""
    gone = (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED, nvml.NVML_ERROR_UNKNOWN)
    try:
        nvml.nvmlInit()
        nvml.nvmlDeviceGetMemoryInfo(_handle(nvml))
    except nvml.NVMLError as error:
        return f"NVML says {error}" if error.value in gone else ""
    return ""


def architecture() -> str:
    """The first GPU's compute capability as "SM90"; "" where there is none to ask."""
    return _asked(lambda nvml, handle: "SM{}{}".format(*nvml.nvmlDeviceGetCudaComputeCapability(handle)), "")


def _asked(question: Callable[[Any, Any], T], otherwise: T) -> T:
    """What NVML says of the first GPU that CUDA shows this process; `otherwise` where it says nothing."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
        return question(nvml, _handle(nvml))
    except Exception:
        return otherwise


def _reading(nvml: Any, handle: Any) -> GpuReading | None:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    slowed = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return GpuReading(
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        name=str(nvml.nvmlDeviceGetName(handle)),
        used=nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        memory_used_bytes=int(memory.used),
        memory_total_bytes=int(memory.total),
        celsius=int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        watts=nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        slowed_by=tuple(why for bit, why in _SLOWED_BY.items() if slowed & bit),
        uncorrected_errors=_uncorrected_errors(nvml, handle),
    )


def _uncorrected_errors(nvml: Any, handle: Any) -> int:
    """Of its memory, since the driver was loaded; 0 for a GPU that has no ECC."""
    kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    try:
        return int(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since))
    except nvml.NVMLError:
        return 0


def _handle(nvml: Any) -> Any:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if first.isdecimal() or not first:
        return nvml.nvmlDeviceGetHandleByIndex(int(first or 0))
    return nvml.nvmlDeviceGetHandleByUUID(first)
