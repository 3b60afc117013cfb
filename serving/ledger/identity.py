"""Which ledger a home has, so that another one, or an empty one in its place, is not taken for it.

With an empty ledger nothing would be as before: a canary would have traffic that nobody judges, and files of
before there was a ledger would be taken over once more. The ledger has an id from its first start on, which
copies and dumps of it have too; the home notes it, with words for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import orjson
from sqlalchemy import make_url

from model_store.durable import canonical_json, write_file
from model_store.errors import Permanent
from serving.ledger.base import URL_VARIABLE, ImportedFile, Ledger
from serving.ledger.opening import url_of
from serving.ledger.rows import AuditRow, RouteRow

NOTE = "ledger.json"
# Among what was adopted, where no file has this name.
_ID = "ledger"


class OtherLedger(Permanent):
    """This home's ledger is another one, or was emptied."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a home has noted: the ledger's id, and where it was."""

    id: str
    where: str


def known_to(root: Path) -> Known | None:
    """None before the first start. Raises `Permanent` for a note that is none."""
    try:
        saved = orjson.loads((root / NOTE).read_bytes())
        return Known(str(saved["id"]), str(saved["where"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as problem:
        raise Permanent(
            f"{root / NOTE} does not say which ledger this home has: {problem!r}",
            remedy=f"see that {URL_VARIABLE} is right, then remove the file",
        ) from problem


def require_there(root: Path, environ: Mapping[str, str]) -> None:
    """Before it is opened, which would make an empty file. Raises `OtherLedger`."""
    known, url = known_to(root), make_url(url_of(root, environ))
    if known and url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise _other(root, known, environ, "is not there")


def require_same(root: Path, environ: Mapping[str, str], ledger: Ledger) -> None:
    """Raises `OtherLedger` where it has another id; or none, and nothing in it."""
    known, now = known_to(root), ledger.adopted().get(_ID)
    # A backup of before ledgers had ids has none.
    is_empty = now is None and not ledger.find(RouteRow) and not ledger.find(AuditRow, newest=1)
    if known and now != known.id and (now or is_empty):
        raise _other(root, known, environ, "is empty" if is_empty else "is another one")


def remember(root: Path, environ: Mapping[str, str], ledger: Ledger) -> None:
    """Note which one it is. Of several who give it an id at once, one does."""
    known = known_to(root)
    if _ID not in ledger.adopted():
        ledger.adopt(ImportedFile(_ID, known.id if known else uuid4().hex), ())
    now = Known(ledger.adopted()[_ID], _where(root, environ))
    if now != known:
        write_file(root / NOTE, canonical_json({"id": now.id, "where": now.where}))


def _where(root: Path, environ: Mapping[str, str]) -> str:
    return make_url(url_of(root, environ)).render_as_string(hide_password=True)


def _other(root: Path, known: Known, environ: Mapping[str, str], how: str) -> OtherLedger:
    said = (
        f"{URL_VARIABLE} names" if environ.get(URL_VARIABLE) else f"{URL_VARIABLE} is not set, and so it is"
    )
    return OtherLedger(
        f"this home's ledger was {known.where}; {said} {_where(root, environ)}, which {how}: with it "
        "nothing of what runs would be known",
        remedy=f"set {URL_VARIABLE} as it was, or restore a backup (docs/ledger.md); to begin anew on "
        f"purpose, move {root / NOTE} away",
    )
