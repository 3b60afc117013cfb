"""How the source is laid out: import-linter holds which room imports which, this what it cannot say."""

from __future__ import annotations

import re

from benchmarks.house import Source, working_tree
from model_store.installation import ROOT as REPOSITORY


def test_no_module_imports_another_that_imports_it() -> None:
    source = Source(working_tree())
    assert len(source.product) > 100
    assert source.module_cycles() == []
    assert source.package_cycles() == []


def test_a_cycle_is_found_through_a_late_import_and_not_through_one_for_types() -> None:
    late = "def f():\n    from serving import a\n"
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from serving import a\n"
    assert Source({"serving/a.py": "import serving.b\n", "serving/b.py": late}).module_cycles() == [
        ["serving.a", "serving.b"]
    ]
    assert Source({"serving/a.py": "import serving.b\n", "serving/b.py": for_types}).module_cycles() == []


def test_the_glossary_says_where_each_word_lives() -> None:
    glossary = (REPOSITORY / "docs" / "architecture.md").read_text().partition("## Glossary")[2]
    rows = [line.split("|")[1:-1] for line in glossary.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 30
    places = {word.strip(): re.findall("`([^`]+)`", where) for word, _, where in rows}
    assert {
        word: gone for word, named in places.items() if (gone := [p for p in named if not _is_there(p)])
    } == {}


def test_links_between_documents_lead_somewhere() -> None:
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    broken = [
        f"{page.relative_to(REPOSITORY)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert broken == []


def _is_there(place: str) -> bool:
    """`place`: a module or a package, from the repository, from `serving`, or from `serving/control`."""
    rooms = (REPOSITORY / room / place for room in ("", "serving", "serving/control"))
    return any(path.is_dir() or path.with_suffix(".py").exists() for path in rooms)
