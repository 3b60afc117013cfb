"""What a release is about, fixed when its DAG run starts: the version, the spec, who asked and why.

One file a release, `<home>/releases/<model>/<id>.json`, so that XCom carries only the id. The id comes
from the DAG run, so that a cleared run is the same release again.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from model_store.durable import canonical_json, write_file
from model_store.errors import Permanent
from model_store.release_spec import STORED, ReleaseSpec
from model_store.types import ModelRef
from model_store.unwritable import naming
from serving.control import bundle_comparison
from serving.control.bundle_comparison import BundleComparison
from serving.control.rollout.journal import release_id

log = logging.getLogger(__name__)


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
    """The files under `root`. Many processes may use one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, request: Request, spec: ReleaseSpec, resolve: Callable[[str], int]) -> Release:
        """The release of this DAG run. A run that starts again keeps its version and takes the new spec."""
        with self._alone(spec.model):
            if known := self._of_run(spec.model, request):
                return self._keep(replace(known, spec=spec, request=request))
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
        known = self.load(release)
        with self._alone(known.model):
            known = self.load(release)
            is_same = bool(known.bundles) and known.bundles[-1].bundle_id == bundle_id
            before = known.bundles[:-1] if is_same else known.bundles
            built = Built(bundle_id, at, tuple(gated), sample, compared)
            return self._keep(replace(known, bundles=(*before, built)))

    def forget(self, release: Release) -> None:
        """Of a release whose run was never started."""
        self._path(release).unlink(missing_ok=True)

    def load(self, release: str) -> Release:
        """Raises `Permanent` when no release has this id."""
        try:
            return _read(self.path(release))
        except FileNotFoundError:
            raise Permanent(
                f"nothing is known of release {release} in {self.root}",
                remedy="clear the run from its first task, or trigger a new one",
            ) from None

    def path(self, release: str) -> Path:
        """The file of the release with this id."""
        return self.root / release.rpartition("-v")[0] / f"{release}.json"

    def of_model(self, model: str) -> list[Release]:
        """Every release ever asked for, oldest first."""
        found = [_read(path) for path in (self.root / model).glob("*.json")]
        return sorted(found, key=lambda release: (release.request.at, release.id))

    def spec_of(self, model: str) -> ReleaseSpec | None:
        """As it was at the model's last release that can be read: alerts and rollbacks must not fail by a
        file that is none of theirs.
        """
        for path in sorted((self.root / model).glob("*.json"), key=_by_time, reverse=True):
            try:
                return _read(path).spec
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
                log.warning("%s is passed over: it is no release: %r", path, problem)
        return None

    def _of_run(self, model: str, request: Request) -> Release | None:
        for path in (self.root / model).glob(f"*-{_stamp(request.at)}*.json"):
            release = _read(path)
            if (release.request.dag_id, release.request.run_id) == (request.dag_id, request.run_id):
                return release
        return None

    def _create(self, ref: ModelRef, spec: ReleaseSpec, request: Request) -> Release:
        """Two runs that ask for one version within a second get names of their own."""
        for again in count():
            name = release_id(ref.name, ref.version, at=request.at.astimezone(UTC), again=again)
            release = Release(name, ref, spec, request)
            if write_new_file(self._path(release), canonical_json(_to_json(release))):
                return release
        raise AssertionError("counting never ends")

    @contextmanager
    def _alone(self, model: str) -> Iterator[None]:
        """What is read stays as it is until it is written again."""
        with (_made(self.root / model) / ".requests.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _keep(self, release: Release) -> Release:
        write_file(self._path(release), canonical_json(_to_json(release)))
        return release

    def _path(self, release: Release) -> Path:
        return self.root / release.model / f"{release.id}.json"


def words_for_another(bundle_id: str, published: Iterable[str]) -> str:
    """Why people are asked about a bundle although they were asked before; empty if it is the only one."""
    before = [other for other in dict.fromkeys(published) if other != bundle_id]
    if not before:
        return ""
    return (
        f"the release's run was repeated and built bundle {bundle_id}; what was answered about bundle "
        f"{', '.join(before)} does not count for it"
    )


def _stamp(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _by_time(path: Path) -> tuple[str, str]:
    """When the release in this file was asked for; of those in one second, by name."""
    return path.stem.rpartition("-v")[2].partition("-")[2], path.stem


def write_new_file(path: Path, content: bytes) -> bool:
    """Create `path` whole, unless it exists. Of several writers at once exactly one gets True."""
    with naming(path), TemporaryDirectory(dir=_made(path.parent), prefix=".new-") as aside:
        written = Path(aside) / path.name
        write_file(written, content)
        try:
            path.hardlink_to(written)
        except FileExistsError:
            return False
    return True


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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


def _read(path: Path) -> Release:
    saved = json.loads(path.read_bytes())
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
