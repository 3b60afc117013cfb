"""How pages are written: templates that escape everything, numbers and times as people read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from serving.control.bundle_comparison import change
from serving.figures import figures
from serving.web.access import Right

HERE = Path(__file__).parent
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_RELEASE_ID = re.compile(r"\b([A-Za-z0-9][\w.\-]*?)-v([0-9]+)-[0-9]{8}T[0-9]{6}Z(?:-[0-9]+)?\b")
# Runs that no person started (`slipway_airflow.causes.asked_by`).
_BY_AIRFLOW = {
    "airflow (asset_triggered)": "Airflow, on an event",
    "airflow (scheduled)": "Airflow, on schedule",
    "airflow (backfill)": "Airflow, on schedule",
    "airflow (operator_triggered)": "Airflow, comparing with MLflow",
    "airflow (manual)": "Airflow",
}
_AIRFLOW = re.compile("|".join(map(re.escape, _BY_AIRFLOW)))

# Nothing is run or loaded that does not come from here; Airflow's own page may show ours in a frame.
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def render(template: str, **values: Any) -> str:
    """The page as HTML."""
    return environment().get_template(template).render(**values)


def open_page(request: Request, name: str, *, code: int = 200, **values: Any) -> Response:
    """A page for everybody: nobody's name and rights are on it, and nothing of any model."""
    root = str(request.scope.get("root_path", ""))
    html = render(
        f"{name}.html",
        base=root,
        airflow=root.removesuffix("/slipway"),
        here=name,
        reader=None,
        may=dict.fromkeys(Right, False),
        freezes=(),
        **values,
    )
    headers = {**SECURITY, "Cache-Control": "private, no-cache"}
    return Response(html, code, media_type="text/html", headers=headers)


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "span": span,
        "brief": brief,
        "ago": ago,
        "number": number,
        "change": change,
        "percent": percent,
        "count": count,
        "sentence": sentence,
        "code": code,
        "told": told,
        "named": named,
        "who": who,
        "utc": utc,
        "iso": iso,
    }
    made.globals["static_digest"] = static_digest()
    return made


@cache
def static_files() -> dict[str, bytes]:
    """The style sheet and the scripts, by name."""
    return {path.name: path.read_bytes() for path in sorted((HERE / "static").iterdir())}


@cache
def static_digest() -> str:
    """Part of their address, so that browsers may keep them for ever."""
    every = b"".join(name.encode() + content for name, content in static_files().items())
    return blake2b(every, digest_size=6).hexdigest()


def span(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d`: at most two units."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s".replace(".0 s", " s")
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest and minutes < 10 else "")
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    return f"{hours // 24} d"


def brief(seconds: float) -> str:
    """The largest unit alone: `40 s`, `3 min`, `5 h`, `4 d`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size * (2 if unit == "d" else 1):
            return f"{int(seconds // size)} {unit}"
    return f"{max(1, int(seconds))} s"


def ago(moment: datetime, now: datetime) -> str:
    """`12 s ago`; a clock that is ahead of ours says `now`."""
    seconds = (now - moment).total_seconds()
    return "now" if seconds < 1 else f"{brief(seconds)} ago"


def number(value: float | None, digits: int = 2) -> str:
    """A measurement, or a dash. Small differences of an accuracy count, so it is shown with four digits."""
    return "–" if value is None else figures(value, digits)


def count(value: int) -> str:
    """`10,000`"""
    return f"{value:,}"


def sentence(text: str) -> str:
    """Words at the beginning of a sentence. What follows stays as it is, names above all."""
    return text if _RELEASE_ID.match(text) else text[:1].upper() + text[1:]


def code(text: str) -> Markup:
    """Words with their `code` set as such, and everything in them escaped."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    spans = (
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts)
    )
    return Markup("").join(spans)


def named(text: str) -> str:
    """Words with `fraud v3` in place of the id of its release, and what Airflow started in words."""
    return _RELEASE_ID.sub(r"\1 v\2", _AIRFLOW.sub(lambda found: who(found[0]), text))


def told(text: str, base: str) -> Markup:
    """The same, each a link to its release, and everything else escaped."""
    text = _AIRFLOW.sub(lambda found: who(found[0]), text)
    words, end = Markup(""), 0
    for found in _RELEASE_ID.finditer(text):
        link = Markup('<a href="{}/releases/{}">{} v{}</a>').format(base, found[0], found[1], found[2])
        words += escape(text[end : found.start()]) + link
        end = found.end()
    return words + escape(text[end:])


def who(name: str) -> str:
    """Somebody's name; what Airflow started by itself, in words."""
    return _BY_AIRFLOW.get(name, name)


def percent(value: float) -> str:
    """`5 %`, `12.5 %`."""
    return f"{value:g} %"


def utc(moment: datetime) -> str:
    """`2026-11-21 22:38:58 UTC`; the page's script shows it in the reader's own zone."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(moment: datetime) -> str:
    return moment.isoformat()
