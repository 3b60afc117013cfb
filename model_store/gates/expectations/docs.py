"""Data Docs as single files: Great Expectations renders the content, a template of ours the page around it.

Its own page loads styles and scripts from seven hosts and shows neither verdicts nor an index without them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).with_name("templates")
PAGE = "slipway_page.j2"


def publish(
    document: dict[str, Any],
    folder: Path,
    *,
    name: str,
    title: str,
    facts: Mapping[str, str],
    failed: Sequence[str],
) -> Path:
    """Write `folder`/`name`.html and .json, and the index of all pages in `folder`. Returns the page.

    At the top of the page stand `facts`, what was looked at, and `failed`, a sentence for each limit missed.
    """
    page = folder / f"{name}.html"
    _write(page, _page(document, title, facts, failed))
    _write(page.with_suffix(".json"), json.dumps({"title": title, **document}, indent=1))
    _write(folder / "index.html", _index(folder))
    return page


def _write(path: Path, text: str) -> None:
    """Whole or not at all: somebody may be reading the index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def _page(document: dict[str, Any], title: str, facts: Mapping[str, str], failed: Sequence[str]) -> str:
    from great_expectations.core.expectation_validation_result import (
        ExpectationSuiteValidationResult,
        expectationSuiteValidationResultSchema,
    )
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    loaded: Any = expectationSuiteValidationResultSchema.load(_escaped(document))
    is_result = isinstance(loaded, ExpectationSuiteValidationResult)
    result = loaded if is_result else ExpectationSuiteValidationResult(**loaded)
    content = ValidationResultsPageRenderer().render(result)
    view: Any = DefaultJinjaPageView(custom_views_directory=str(TEMPLATES))
    shown = {
        **facts,
        "Expectations met": _met(document),
        "Checked by": f"Great Expectations {document['meta']['great_expectations_version']}",
    }
    told = {"title": title, "passed": bool(document["success"]), "facts": shown, "failed": list(failed)}
    return str(view.render(content, template=PAGE, **told))


def _escaped(document: dict[str, Any]) -> dict[str, Any]:
    """Unexpected values without markup: Great Expectations puts them into its tables as they are."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    for result in copy["results"]:
        found = result["result"]
        found["partial_unexpected_list"] = [_plain(v) for v in found.get("partial_unexpected_list", [])]
        for count in found.get("partial_unexpected_counts", []):
            count["value"] = _plain(count.get("value"))
    return copy


def _plain(value: Any) -> Any:
    return escape(value) if isinstance(value, str) else value


def _index(folder: Path) -> str:
    """From the pages' JSON, so that two tasks may add pages at once: the last one sees all."""
    rows = "\n".join(_row(path) for path in sorted(folder.glob("*.json")))
    style = (TEMPLATES / "slipway_style.css").read_text()
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Data Docs</title>'
        f"<style>{style}</style></head><body><header><h1>Data Docs</h1></header><main>"
        "<table><tr><th>Verdict</th><th>What was checked</th><th>Expectations met</th></tr>"
        f"{rows}</table></main></body></html>\n"
    )


def _row(path: Path) -> str:
    document = json.loads(path.read_text())
    verdict = "passed" if document["success"] else "failed"
    link = f'<a href="{escape(path.stem)}.html">{escape(document["title"])}</a>'
    return f'<tr><td class="verdict {verdict}">{verdict}</td><td>{link}</td><td>{_met(document)}</td></tr>'


def _met(document: dict[str, Any]) -> str:
    statistics = document["statistics"]
    return f"{statistics['successful_expectations']} of {statistics['evaluated_expectations']}"
