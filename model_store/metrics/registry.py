"""Finds a metric by its name: our own files in this package, then whatever packages install.

A new metric is one file here with `METRICS`, a tuple of metrics and families; nothing else is touched. A
package brings its own by an entry point in the group `slipway.metrics`, named like the metric, that loads a
`Metric`, a `Family`, or something that makes one when it is called without arguments.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

from model_store.errors import Permanent
from model_store.metrics.base import Metric, Task
from model_store.metrics.custom import Custom

GROUP = "slipway.metrics"
_MEMBERS = ("name", "tasks", "needs", "higher_is_better", "relative", "value", "trivial", "compare")


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics that differ by a number in their name: `ndcg_10` is of the family `ndcg_<k>`.

    `make` gets the number as it is written and raises ValueError with what it must be.
    """

    pattern: str
    tasks: frozenset[Task]
    make: Callable[[str], Metric]

    def match(self, name: str) -> Metric | None:
        """The metric of that name, None if it is of another family. Raises `Permanent` for a bad number."""
        prefix = self.pattern.split("<")[0]
        found = re.fullmatch(re.escape(prefix) + r"(-?[0-9.]+)", name)
        if found is None:
            return None
        try:
            return self.make(found[1])
        except ValueError as error:
            raise Permanent(f"{name}: {error}", remedy=f"write it as {self.pattern}") from error


def metric(name: str, *, trusted: bool = False) -> Metric:
    """The metric of that name, such as `auc` or `ndcg_10`; or a trusted function, `PATH.py:function`.

    Raises `Permanent` with what there is, and the closest name.
    """
    if ":" in name:
        return Custom(name, trusted=trusted)
    own = _own()
    if name in own and not isinstance(found := own[name], Family):
        return found
    families = (member for member in own.values() if isinstance(member, Family))
    if (made := _first_match(name, families)) is not None:
        return made
    for point in _installed().values():
        loaded = _load(point) if _may_be(name, point.name) else None
        made = loaded.match(name) if isinstance(loaded, Family) else loaded
        if made is not None:
            return made
    raise _unknown(name)


def known(task: Task | None = None) -> list[str]:
    """The names there are, families as they are written (`ndcg_<k>`); of one task, or of all."""
    members = dict(_own())
    members |= {name: _load(point) for name, point in _installed().items()}
    return sorted(name for name, member in members.items() if task is None or task in member.tasks)


def _first_match(name: str, families: Iterator[Family]) -> Metric | None:
    return next((made for family in families if (made := family.match(name)) is not None), None)


def _may_be(name: str, registered: str) -> bool:
    """Whether what an entry point of that name loads may be the metric: others are not even imported."""
    return name == registered or ("<" in registered and name.startswith(registered.split("<")[0]))


def _unknown(name: str) -> Permanent:
    names = sorted({*_own(), *_installed()})
    close = get_close_matches(name, names, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return Permanent(
        f"there is no metric {name!r}{meant}", remedy=f"there are: {', '.join(names)}; or PATH.py:function"
    )


@cache
def _own() -> dict[str, Metric | Family]:
    members: dict[str, Metric | Family] = {}
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = import_module(f"{__package__}.{found.name}") if found.name != "registry" else None
        for member in getattr(module, "METRICS", ()):
            name = member.pattern if isinstance(member, Family) else member.name
            if name in members:
                raise ValueError(f"two metrics are called {name}")
            members[name] = member
    return members


def _installed() -> dict[str, EntryPoint]:
    points = {point.name: point for point in entry_points(group=GROUP)}
    if taken := sorted(set(points) & set(_own())):
        raise Permanent(
            f"{_origin(points[taken[0]])} calls its metric {taken[0]}, and that name is ours",
            remedy="rename its entry point, or uninstall it",
        )
    return points


def _load(point: EntryPoint) -> Metric | Family:
    try:
        loaded = point.load()
        member = loaded() if isinstance(loaded, type) or not _is_member(loaded) else loaded
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise Permanent(
            f"the metric {point.name} of {_origin(point)} cannot be loaded: {type(error).__name__}: {first}",
            remedy="repair or uninstall that package",
        ) from error
    if not _is_member(member):
        missing = [m for m in _MEMBERS if not hasattr(member, m)]
        raise Permanent(
            f"the metric {point.name} of {_origin(point)} lacks {', '.join(missing)}",
            remedy="see Metric in model_store/metrics/base.py",
        )
    return cast("Metric | Family", member)


def _is_member(loaded: Any) -> bool:
    return isinstance(loaded, Family) or all(hasattr(loaded, m) for m in _MEMBERS)


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value
