"""Values that are fine alone and impossible together, each at its own field."""

from __future__ import annotations

from collections.abc import Sequence

Found = tuple[tuple[str | int, ...], str]


class Contradictions(ValueError):  # noqa: N818 - they are several
    """Raised inside a pydantic validator; carries every contradiction of a section, not just the first."""

    def __init__(self, found: list[Found]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, field))}: {problem}" for field, problem in found))
        self.found = found


def repeated(field: str, values: Sequence[str]) -> list[Found]:
    """A complaint for each value that stands twice in `values`."""
    return [
        ((field, place), f"`{value}` is already in the list")
        for place, value in enumerate(values)
        if value in values[:place]
    ]
