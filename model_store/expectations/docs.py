"""Data Docs as single files: Great Expectations renders the content, a template of ours the page around it.

Its own page loads styles and scripts from seven hosts and shows neither verdicts nor an index without them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).with_name("templates")
PAGE = "slipway_page.j2"


def publish(
    document: dict[str, Any], folder: Path, *, name: str, title: str, facts: Mapping[str, str]
) -> Path:
    """Write `folder`/`name`.html and .json, and the index of all pages in `folder`. Returns the page.

    `facts` stand at the top of the page: what was looked at.
    """
    page = folder / f"{name}.html"
    _write(page, _page(document, title, facts))
    _write(page.with_suffix(".json"), json.dumps({"title": title, **document}, indent=1))
    _write(folder / "index.html", _index(folder))
    return page


def _write(path: Path, text: str) -> None:
    """Whole or not at all: somebody may be reading the index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def _page(document: dict[str, Any], title: str, facts: Mapping[str, str]) -> str:
    from great_expectations.core.expectation_validation_result import (
        ExpectationSuiteValidationResult,
        expectationSuiteValidationResultSchema,
    )
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    loaded: Any = expectationSuiteValidationResultSchema.load(document)
    is_result = isinstance(loaded, ExpectationSuiteValidationResult)
    result = loaded if is_result else ExpectationSuiteValidationResult(**loaded)
    content = ValidationResultsPageRenderer().render(result)
    view: Any = DefaultJinjaPageView(custom_views_directory=str(TEMPLATES))
    shown = {
        **facts,
        "Expectations met": _met(document),
        "Checked by": f"Great Expectations {document['meta']['great_expectations_version']}",
    }
    passed = bool(document["success"])
    return str(view.render(content, template=PAGE, title=title, passed=passed, facts=shown))


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
