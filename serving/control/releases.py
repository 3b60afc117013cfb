"""What a release is about, fixed when its DAG run starts: the version, the spec, who asked and why.

One row of the ledger for each, so that XCom carries only the id. The id comes from the DAG run, so that a
cleared run is the same release again. Who keeps them in memory is told which were saved since.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import count

from model_store.errors import Permanent
from model_store.release_spec import STORED, ReleaseSpec
from model_store.types import ModelRef
from serving.control import bundle_comparison
from serving.control.bundle_comparison import BundleComparison
from serving.control.rollout.journal import release_id
from serving.ledger.base import Rows, Unknown
from serving.ledger.changing import change
from serving.ledger.rows import ReleaseChangeRow
from serving.ledger.rows import ReleaseRecord as ReleaseRow

log = logging.getLogger(__name__)

# The status of a row whose release never was: rows are not removed.
FORGOTTEN = "forgotten"
# What a row that is no release is read in one of these ways.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
_PIECE = 20


class NoSuchRelease(Permanent):
    """Nobody asked for a release of this id."""


class Cause(StrEnum):
    """Why there is a run: a person (or a program with a person's login) asked, or nobody did."""

    PERSON = "person"
    EVENT = "event"
    SCHEDULE = "schedule"
    RECONCILER = "reconciler"

    @property
    def is_automatic(self) -> bool:
        return self is not Cause.PERSON


@dataclass(frozen=True, slots=True)
class Request:
    """Who asked for what: the DAG run and what its form said."""

    dag_id: str
    run_id: str
    at: datetime
    version: str
    reason: str
    by: str
    dry_run: bool
    cause: Cause = Cause.PERSON


@dataclass(frozen=True, slots=True)
class Built:
    """A bundle that a run of the release published, and when it last did.

    `gated`: digests of the gates' results, which the run reads again when it writes what became of it.
    `sample`: that of a few rows with the answers that were judged; empty where none were kept.
    `compared`: with what served then; None of bundles published before there were comparisons.
    """

    bundle_id: str
    at: datetime
    gated: tuple[str, ...] = ()
    sample: str = ""
    compared: BundleComparison | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """A request whose version is known. `spec` is as it was when the run (last) started.

    `bundles`: what its run published, the present one last. A run that is repeated may build another.
    """

    id: str
    ref: ModelRef
    spec: ReleaseSpec
    request: Request
    bundles: tuple[Built, ...] = ()

    @property
    def model(self) -> str:
        return self.ref.name

    @property
    def version(self) -> int:
        return self.ref.version


class Releases:
    """Those among `rows`. Many processes may use them at once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def open(self, request: Request, spec: ReleaseSpec, resolve: Callable[[str], int]) -> Release:
        """The release of this DAG run. A run that starts again keeps its version and takes the new spec."""
        if known := self._of_run(spec.model, request):
            return self._change(known.id, lambda release: replace(release, spec=spec, request=request))
        return self._create(ModelRef(spec.model, resolve(request.version)), spec, request)

    def built(
        self,
        release: str,
        bundle_id: str,
        *,
        at: datetime,
        gated: Iterable[str] = (),
        sample: str = "",
        compared: BundleComparison | None = None,
    ) -> Release:
        """Write down that the release's run published this bundle. Raises `Permanent` as `load` does.

        `serving.control.retention` keeps what is written here until the release has ended.
        """
        built = Built(bundle_id, at, tuple(gated), sample, compared)

        def published(known: Release) -> Release:
            is_same = bool(known.bundles) and known.bundles[-1].bundle_id == bundle_id
            before = known.bundles[:-1] if is_same else known.bundles
            return replace(known, bundles=(*before, built))

        self.load(release)
        return self._change(release, published)

    def forget(self, release: Release) -> None:
        """Of a release whose run was never started: nobody is told of it any more."""
        change(self._rows, ReleaseRow, release.id, lambda row: replace(row, status=FORGOTTEN))

    def load(self, release: str) -> Release:
        """Raises `Permanent` when no release has this id."""
        try:
            row = self._rows.get(ReleaseRow, release)
        except Unknown:
            row = None
        if row is None or row.status == FORGOTTEN:
            raise NoSuchRelease(
                f"nothing is known of release {release}",
                remedy="clear the run from its first task, or trigger a new one",
            )
        return of_row(row)

    def of_model(self, model: str) -> list[Release]:
        """Every release ever asked for, oldest first."""
        rows = self._rows.find(ReleaseRow, model=model)
        return [of_row(row) for row in rows if row.status != FORGOTTEN]

    def spec_of(self, model: str) -> ReleaseSpec | None:
        """As it was at the model's last release that can be read: alerts and rollbacks must not fail by a
        row that is none of theirs.
        """
        for skip in count(0, _PIECE):
            rows = self._rows.find(ReleaseRow, model=model, newest=_PIECE, skip=skip)
            for row in rows:
                try:
                    return of_row(row).spec
                except UNREADABLE as problem:
                    log.warning("%s is passed over: it is no release: %r", row.id, problem)
            if len(rows) < _PIECE:
                return None
        raise AssertionError("counting never ends")

    def _of_run(self, model: str, request: Request) -> Release | None:
        """By the second in which it was asked for: a cleared run has the time of its first start."""
        second = request.at.astimezone(UTC).replace(microsecond=0)
        asked = self._rows.find(ReleaseRow, model=model, since=second, until=second + timedelta(seconds=1))
        for row in asked:
            said = row.document["request"]
            if row.status != FORGOTTEN and (said["dag_id"], said["run_id"]) == (
                request.dag_id,
                request.run_id,
            ):
                return of_row(row)
        return None

    def _create(self, ref: ModelRef, spec: ReleaseSpec, request: Request) -> Release:
        """Two runs that ask for one version within a second get names of their own."""
        for again in count():
            name = release_id(ref.name, ref.version, at=request.at.astimezone(UTC), again=again)
            release = Release(name, ref, spec, request)
            if self._rows.create(to_row(release)):
                return release
        raise AssertionError("counting never ends")

    def _change(self, release: str, made: Callable[[Release], Release]) -> Release:
        changed = change(self._rows, ReleaseRow, release, lambda row: to_row(made(of_row(row)), over=row))
        return of_row(changed)


def words_for_another(bundle_id: str, published: Iterable[str]) -> str:
    """Why people are asked about a bundle although they were asked before; empty if it is the only one."""
    before = [other for other in dict.fromkeys(published) if other != bundle_id]
    if not before:
        return ""
    return (
        f"the release's run was repeated and built bundle {bundle_id}; what was answered about bundle "
        f"{', '.join(before)} does not count for it"
    )


def to_row(release: Release, *, over: ReleaseRow | None = None) -> ReleaseRow:
    """As the ledger keeps it, in the place of `over`: how it ended stays as it is there."""
    said = _to_json(release)
    if over is not None:
        return replace(
            over,
            requested_at=release.request.at,
            requested_by=release.request.by,
            document={**over.document, **said},
        )
    return ReleaseRow(
        id=release.id,
        model=release.model,
        version=release.version,
        requested_at=release.request.at,
        requested_by=release.request.by,
        document=said,
    )


def _to_json(release: Release) -> dict[str, object]:
    return {
        "schema": 1,
        "id": release.id,
        "model": release.model,
        "version": release.version,
        "spec": release.spec.model_dump(mode="json"),
        "request": {**asdict(release.request), "at": release.request.at.isoformat()},
        "bundles": [
            {
                "id": one.bundle_id,
                "at": one.at.isoformat(),
                "gated": one.gated,
                "sample": one.sample,
                "compared": bundle_comparison.to_json(one.compared) if one.compared else None,
            }
            for one in release.bundles
        ],
    }


def of_row(row: ReleaseRow) -> Release:
    """The inverse of `to_row`. Raises one of `UNREADABLE` for what is no release."""
    saved = row.document
    request = saved["request"]
    return Release(
        id=saved["id"],
        ref=ModelRef(saved["model"], saved["version"]),
        spec=ReleaseSpec.model_validate(saved["spec"], context=STORED),
        request=Request(
            **{
                **request,
                "at": datetime.fromisoformat(request["at"]),
                "cause": Cause(request.get("cause", Cause.PERSON)),
            }
        ),
        bundles=tuple(
            Built(
                one["id"],
                datetime.fromisoformat(one["at"]),
                tuple(one["gated"]),
                one.get("sample", ""),
                bundle_comparison.from_json(one["compared"]) if one.get("compared") else None,
            )
            for one in saved.get("bundles", ())
        ),
    )


# Of those that are saved at once the later number may be there first: so many are looked at again.
_OVERLAP = 50


class ChangedReleases:
    """Of one asker and one thread at a time. What was saved before the first question is not told."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._seen: int | None = None
        self._known: set[int] = set()

    def take(self) -> list[ReleaseChangeRow]:
        """Those since the last call; none at the first. Raises `Retryable`, and tells them the next time."""
        if self._seen is None:
            found = self._rows.find(ReleaseChangeRow, newest=_OVERLAP)
            changed: list[ReleaseChangeRow] = []
        else:
            found = self._rows.find(ReleaseChangeRow, after=max(0, self._seen - _OVERLAP))
            changed = [each for each in found if each.number not in self._known]
        self._known = {each.number for each in found}
        self._seen = max([self._seen or 0, *self._known])
        return changed
