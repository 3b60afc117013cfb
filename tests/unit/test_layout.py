"""How the source is laid out: import-linter holds which room imports which, this what it cannot say."""

from __future__ import annotations

from benchmarks.house import Source, working_tree


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
