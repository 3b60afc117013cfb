"""Whether those who call the version that serves can call another one the same way. Pure.

Users are sent to either version by chance, and their mistakes (4xx) count for nobody: what breaks callers
must be found before there is traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from model_store.types import Check, TensorSpec

Fits = Callable[[TensorSpec, TensorSpec], bool]


@dataclass(frozen=True, slots=True)
class VersionSignature:
    """What a version takes and what it answers."""

    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class SignatureChanges:
    """A sentence for each input and output whose change breaks callers."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def __str__(self) -> str:
        return "; ".join(self.inputs + self.outputs)


def changes(serving: VersionSignature, candidate: VersionSignature) -> SignatureChanges:
    """What callers of `serving` would stumble over in `candidate`.

    Inputs: each is still taken, in every size it was taken in, and no other is required. Outputs: each is
    still there, in no size that `serving` would not have answered; more of them are fine.
    """
    before = {tensor.name: tensor for tensor in serving.inputs}
    new = [tensor for tensor in candidate.inputs if tensor.name not in before]
    inputs = _missed("input", serving.inputs, candidate.inputs, _takes_as_much)
    inputs += tuple(f"input {tensor} is new, and nobody sends it" for tensor in new)
    outputs = _missed("output", serving.outputs, candidate.outputs, _answers_alike(serving, candidate))
    return SignatureChanges(inputs, outputs)


def judge_signature(
    serving: VersionSignature, candidate: VersionSignature, *, may_break: int | None
) -> Check:
    """`observed` is the number of changes that break callers, `limit` how many may: none, unless the spec
    says that callers of this very version (`may_break`) are ready for them.
    """
    found = changes(serving, candidate)
    is_planned = may_break == serving.version
    limit = len(found) if is_planned else 0
    return Check(
        f"signature against champion v{serving.version}",
        observed=float(len(found)),
        limit=float(limit),
        passed=len(found) <= limit,
        detail=_in_words(found, serving.version, may_break),
        direction="at_most",
    )


def _missed(
    role: str, before: Iterable[TensorSpec], after: Iterable[TensorSpec], fits: Fits
) -> tuple[str, ...]:
    now = {tensor.name: tensor for tensor in after}
    return tuple(
        f"{role} {old} became {now[old.name]}" if old.name in now else f"{role} {old} is gone"
        for old in before
        if old.name not in now or not fits(old, now[old.name])
    )


def _is_alike(old: TensorSpec, new: TensorSpec) -> bool:
    return old.datatype == new.datatype and len(old.shape) == len(new.shape)


def _takes_as_much(old: TensorSpec, new: TensorSpec) -> bool:
    sizes = zip(old.shape, new.shape, strict=False)
    return _is_alike(old, new) and all(now in (was, -1) for was, now in sizes)


def _answers_alike(serving: VersionSignature, candidate: VersionSignature) -> Fits:
    # Who sends the old size gets the old size, where both became free together.
    may_be_free = _became_free(serving.inputs, candidate.inputs)

    def fits(old: TensorSpec, new: TensorSpec) -> bool:
        sizes = zip(old.shape[1:], new.shape[1:], strict=False)
        as_definite = all(now == was or was == -1 or (may_be_free and now == -1) for was, now in sizes)
        # The first dimension is the batch: pods answer as many rows as they were sent.
        return _is_alike(old, new) and old.shape[:1] == new.shape[:1] and as_definite

    return fits


def _became_free(before: Iterable[TensorSpec], after: Iterable[TensorSpec]) -> bool:
    now = {tensor.name: tensor.shape for tensor in after}
    return any(
        was != -1 and size == -1
        for old in before
        for was, size in zip(old.shape, now.get(old.name, ()), strict=False)
    )


def _in_words(found: SignatureChanges, version: int, may_break: int | None) -> str:
    if not found:
        return f"takes what callers of v{version} send, answers what they read"
    if may_break == version:
        return f"{found}; allowed by gates.signature.may_break: {may_break}"
    written = "" if may_break is None else f" (it says {may_break})"
    return (
        f"{found}; callers of v{version} would get errors or read wrong answers: export it as v{version} is,"
        f" or plan the break with them and set gates.signature.may_break: {version}{written}"
    )
