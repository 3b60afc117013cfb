"""What is in the wheel, under which names, and what it asks for."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from model_store.installation import ROOT as REPOSITORY
from tests.packaging.conftest import build

BUILD = runpy.run_path(str(REPOSITORY / "deploy" / "wheel.py"))
MOVED: tuple[str, ...] = BUILD["MOVED"]
renamed: Callable[[str], str] = BUILD["renamed"]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_at_the_top_of_a_site_packages_are_our_two_names_alone(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in contents(wheel)}
    assert tops == {"slipway", "slipway_airflow", "slipway-0.1.0.dist-info"}


def test_every_file_of_the_product_is_in_it_and_no_import_has_an_old_name(wheel: Path) -> None:
    tracked = ("git", "ls-files", *MOVED, "plugins/slipway_airflow")
    listed = subprocess.run(tracked, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = {
        name.removeprefix("plugins/") if name.startswith("plugins/") else f"slipway/{name}"
        for name in listed.stdout.split()
    }
    found = contents(wheel)
    assert files - set(found) == {"slipway/serving/local_stack/bootstrap.py"}
    imported = {
        module for name, code in found.items() if name.endswith(".py") for module in imports(code.decode())
    }
    assert not imported & set(MOVED)
    assert "slipway" in imported


def imports(code: str) -> set[str]:
    """The first parts of the modules it imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
    return found


def test_the_sources_make_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", REPOSITORY, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / "slipway-0.1.0", tmp_path / "again")
    assert contents(again) == contents(wheel)


@pytest.mark.parametrize(
    ("written", "built"),
    [
        ("from serving import home", "from slipway.serving import home"),
        ("import model_store.gates as gates", "import slipway.model_store.gates as gates"),
        ("from serving_elsewhere import x", "from serving_elsewhere import x"),
        ("from . import serving", "from . import serving"),
        ("spec = {'serving.home': 1}", "spec = {'serving.home': 1}"),
        (
            "def f():\n    from demo.acts import a; b = 1",
            "def f():\n    from slipway.demo.acts import a; b = 1",
        ),
        ("remedy = 'run ./slipway up'", "remedy = 'run slipway up'"),
        ("'`python -m serving.pod`'", "'`python -m slipway.serving.pod`'"),
        ("path = '../slipway'", "path = '../slipway'"),
    ],
)
def test_imports_and_commands_get_the_names_they_have_there(written: str, built: str) -> None:
    assert renamed(written) == built


def test_no_module_is_started_or_loaded_by_a_name_that_only_a_clone_has() -> None:
    """The build changes no strings: `name_here` and `__package__` give the name."""
    named = {
        f"{file.relative_to(REPOSITORY)}:{line} {text}"
        for folder in (*MOVED, "plugins")
        for file in (REPOSITORY / folder).rglob("*.py")
        if file.name not in ("bootstrap.py", "extensions.py", "installation.py")
        for line, text in module_names(file.read_text())
    }
    assert not named


def module_names(code: str) -> Iterator[tuple[int, str]]:
    """Strings that are the name of one of our modules, but for those that `name_here` gets."""
    tree = ast.parse(code)
    given = {
        argument
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "name_here"
        for argument in call.args
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node in given:
            continue
        module = REPOSITORY.joinpath(*node.value.partition(":")[0].split("."))
        if re.fullmatch(rf"({'|'.join(MOVED)})(\.\w+)+(:\w+)?", node.value) and (
            module.is_dir() or module.with_suffix(".py").exists()
        ):
            yield node.lineno, node.value


def test_an_import_whose_name_would_be_gone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"write `from serving\.home import"):
        renamed("import serving.home\nserving.home.Home")


def test_what_is_asked_for_allows_what_is_tested_and_names_what_is_used() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = [
        Requirement(line)
        for lines in (project["dependencies"], *project["optional-dependencies"].values())
        for line in lines
    ]
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (REPOSITORY / "requirements.txt").read_text(), re.M))
    allowed = {canonicalize_name(each.name): each.specifier for each in asked}
    assert not {name for name, pin in pins.items() if name in allowed and pin not in allowed[name]}
    for source in ("requirements.in", "serving/pod/requirements.in"):
        lines = (REPOSITORY / source).read_text().splitlines()
        people_wrote = {re.split(r"[=<>\[]", line)[0] for line in lines if re.match(r"\w", line)}
        assert people_wrote <= set(allowed), source


def test_commands_and_specs_need_no_more_than_pip_brings_without_extras() -> None:
    """Whatever an extra brings is hidden from them."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    of_extras = {
        canonicalize_name(Requirement(line).name)
        for lines in project["optional-dependencies"].values()
        for line in lines
    } - {canonicalize_name(Requirement(line).name) for line in (*project["dependencies"], "slipway")}
    modules = packages_distributions().items()
    hidden = [name for name, from_ in modules if {canonicalize_name(each) for each in from_} <= of_extras]
    code = (
        f"import sys; sys.modules |= dict.fromkeys({sorted(hidden)}); sys.argv[0] = 'slipway';"
        "from serving.cli.app import main; main()"
    )
    command = [sys.executable, "-c", code, "validate", "dags/releases/credit_risk.yaml"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "onnx" in hidden
    assert "is a valid spec" in done.stdout, done.stderr
