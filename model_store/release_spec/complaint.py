"""What is wrong with a spec, said so that the line can be fixed without reading our code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model_store.errors import Permanent


@dataclass(frozen=True, slots=True)
class Complaint:
    """One wrong line. `field` is dotted (`rollout.steps.0.weight`), empty for the whole file."""

    line: int
    field: str
    problem: str
    given: str | None = None
    allowed: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        given = f", got `{self.given}`" if self.given is not None else ""
        allowed = f"; allowed: {self.allowed}" if self.allowed else ""
        remedy = f" -> {self.remedy}" if self.remedy else ""
        return f"{where}{self.problem}{given}{allowed}{remedy}"


class InvalidSpec(Permanent):
    """Everything wrong with one spec file, in the order of its lines."""

    def __init__(self, path: Path, complaints: Sequence[Complaint]) -> None:
        self.path = path
        self.complaints = tuple(sorted(complaints, key=lambda complaint: (complaint.line, complaint.field)))
        lines = "\n".join(f"{path}:{complaint.line}: {complaint}" for complaint in self.complaints)
        super().__init__(lines, remedy=f"fix it, then check: ./slipway validate {path}")
