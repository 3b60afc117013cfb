"""How the source is laid out: modules, functions, names, cycles, and what of the plugin is Airflow's.

    python -m benchmarks.house [REVISION ...] [--json] [--names]

Without a revision: the working tree. Otherwise git's, beside each other. The product is `model_store`,
`serving`, `plugins` and `dags`; `demo`, `examples` and `benchmarks` are their users. `--names` lists what one
would look at: class names that occur twice, the longest functions, modules of few lines, cycles.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import subprocess
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from pathlib import PurePosixPath

from model_store.installation import ROOT as REPOSITORY

PRODUCT = ("model_store", "serving", "plugins", "dags")
# A module of fewer lines is confetti, unless it says so itself: an `__init__.py` that is empty is none.
FEW_LINES = 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one tree. Lines are all lines, with comments and blank ones."""

    modules: int
    modules_of_few_lines: int
    median_module: int
    longest_module: int
    functions: int
    median_function: int
    longest_function: int
    private_functions: int
    private_functions_used_once: int
    private_functions_of_three_lines_used_once: int
    class_names_twice: int
    module_cycles: int
    package_cycles: int
    product_lines: int
    test_lines: int
    plugin_percent_without_airflow: int


@dataclass(frozen=True, slots=True)
class Module:
    """One file, by its path below the repository."""

    path: str
    text: str

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def name(self) -> str:
        """As it is imported."""
        path = PurePosixPath(self.path.removeprefix("plugins/")).with_suffix("")
        return ".".join(path.parts[:-1] if path.name == "__init__" else path.parts)

    @property
    def package(self) -> str:
        return self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]


class Source:
    """The Python files of a tree."""

    def __init__(self, files: Mapping[str, str]) -> None:
        everything = [Module(path, text) for path, text in sorted(files.items())]
        self.tests = [one for one in everything if one.path.startswith("tests/")]
        self.product = [one for one in everything if one.path.startswith(tuple(f"{p}/" for p in PRODUCT))]
        self._trees = {one.path: ast.parse(one.text) for one in self.product}

    @cached_property
    def functions(self) -> list[tuple[int, str]]:
        """Their lines and where they are, the longest first."""
        found = (
            ((node.end_lineno or node.lineno) - node.lineno + 1, f"{path}:{node.lineno} {node.name}")
            for path, tree in self._trees.items()
            for node in ast.walk(tree)
            if isinstance(node, FUNCTIONS)
        )
        return sorted(found, reverse=True)

    @cached_property
    def private_functions(self) -> list[tuple[int, int, str]]:
        """How often each is named in its module, its lines, and where it is."""
        found = []
        for path, tree in self._trees.items():
            named = Counter(_names(tree))
            for node in ast.walk(tree):
                if isinstance(node, FUNCTIONS) and node.name.startswith("_") and not node.name.endswith("__"):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    found.append((named[node.name], lines, f"{path}:{node.lineno} {node.name}"))
        return found

    @cached_property
    def class_names_twice(self) -> dict[str, list[str]]:
        """Public classes of one name, and the modules that have one each."""
        found = defaultdict(list)
        for path, tree in self._trees.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(path)
        return {name: paths for name, paths in sorted(found.items()) if len(paths) > 1}

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Which modules of the product each imports, also late; not what is imported for its types alone."""
        known = {one.name for one in self.product}
        return {
            one.name: {
                target
                for wanted in _imported(self._trees[one.path], one.package)
                if (target := _module_of(wanted, known)) and target != one.name
            }
            for one in self.product
        }

    def module_cycles(self) -> list[list[str]]:
        """Modules that import each other, in groups."""
        return _knots(self.imports)

    def package_cycles(self) -> list[list[str]]:
        """Packages that do; a package and what is in it are not apart."""
        packages = {one.name: one.package for one in self.product}
        found: dict[str, set[str]] = defaultdict(set)
        for name, targets in self.imports.items():
            mine = packages[name]
            found[mine] |= {
                theirs
                for target in targets
                if not _is_within(theirs := packages[target], mine) and not _is_within(mine, theirs)
            }
        return _knots(found)

    def figures(self) -> Figures:
        lines = [one.lines for one in self.product]
        lengths = [length for length, _ in self.functions]
        plugin = [one for one in self.product if one.path.startswith("plugins/slipway_airflow")]
        bare = sum(one.lines for one in plugin if not _imports_airflow(self._trees[one.path]))
        once = [length for count, length, _ in self.private_functions if count == 1]
        return Figures(
            modules=len(lines),
            modules_of_few_lines=sum(0 < length < FEW_LINES for length in lines),
            median_module=int(statistics.median(lines)),
            longest_module=max(lines),
            functions=len(lengths),
            median_function=int(statistics.median(lengths)),
            longest_function=max(lengths),
            private_functions=len(self.private_functions),
            private_functions_used_once=len(once),
            private_functions_of_three_lines_used_once=sum(length <= 3 for length in once),
            class_names_twice=len(self.class_names_twice),
            module_cycles=len(self.module_cycles()),
            package_cycles=len(self.package_cycles()),
            product_lines=sum(lines),
            test_lines=sum(one.lines for one in self.tests),
            plugin_percent_without_airflow=round(100 * bare / max(1, sum(one.lines for one in plugin))),
        )

    def to_look_at(self) -> Iterator[str]:
        for name, paths in self.class_names_twice.items():
            yield f"class {name}: {', '.join(paths)}"
        yield from (f"{length:4} lines: {where}" for length, where in self.functions[:15])
        small = sorted((one.lines, one.path) for one in self.product if 0 < one.lines < FEW_LINES)
        yield from (f"{length:4} lines: {path}" for length, path in small)
        for count, length, where in sorted(self.private_functions):
            if count == 1 and length <= 3:
                yield f"used once, {length} lines: {where}"
        yield from (f"modules in a cycle: {', '.join(knot)}" for knot in self.module_cycles())
        yield from (f"packages in a cycle: {', '.join(knot)}" for knot in self.package_cycles())


def working_tree() -> dict[str, str]:
    """The files that git knows, as they are now."""
    listed = _git("ls-files", "-z", "--", *PRODUCT, "tests").decode().split("\0")
    files = [name for name in listed if name.endswith(".py") and (REPOSITORY / name).is_file()]
    return {name: (REPOSITORY / name).read_text() for name in files}


def revision(name: str) -> dict[str, str]:
    """The files of a commit."""
    with tarfile.open(fileobj=BytesIO(_git("archive", name))) as archive:
        wanted = [m for m in archive.getmembers() if m.isfile() and m.name.endswith(".py")]
        return {m.name: opened.read().decode() for m in wanted if (opened := archive.extractfile(m))}


def _git(*arguments: str) -> bytes:
    return subprocess.run(("git", *arguments), cwd=REPOSITORY, capture_output=True, check=True).stdout


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _runtime(node: ast.AST) -> Iterator[ast.AST]:
    """All below it but what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in _names(child.test):
            continue
        yield child
        yield from _runtime(child)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    for node in _runtime(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -(node.level - 1) or None] if node.level else []
            source = ".".join(filter(None, [*base, node.module]))
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _imports_airflow(tree: ast.AST) -> bool:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes]
    return any(name.partition(".")[0] == "airflow" for name in names)


def _module_of(name: str, known: set[str]) -> str | None:
    """The module that an imported name is, or is in."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def _is_within(package: str, other: str) -> bool:
    return package == other or package.startswith(f"{other}.")


def _knots(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of which each reaches every other. Source: Kosaraju's two passes."""
    backward: dict[str, set[str]] = defaultdict(set)
    for name, targets in graph.items():
        for target in targets:
            backward[target].add(name)
    order: list[str] = []
    seen: set[str] = set()
    for name in sorted(graph):
        _visit(name, graph, seen, order)
    assigned: set[str] = set()
    knots = []
    for name in reversed(order):
        knot: list[str] = []
        _visit(name, backward, assigned, knot)
        if len(knot) > 1:
            knots.append(sorted(knot))
    return knots


def _visit(start: str, graph: Mapping[str, Iterable[str]], seen: set[str], order: list[str]) -> None:
    """Append what `start` reaches and nobody has seen, each after all that it leads to."""
    if start in seen:
        return
    seen.add(start)
    stack = [(start, iter(sorted(graph.get(start, ()))))]
    while stack:
        name, rest = stack[-1]
        following = next((each for each in rest if each not in seen), None)
        if following is None:
            stack.pop()
            order.append(name)
        else:
            seen.add(following)
            stack.append((following, iter(sorted(graph.get(following, ())))))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=__doc__)
    parser.add_argument("revisions", nargs="*", metavar="REVISION")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--names", action="store_true", help="of the last one, list what to look at")
    options = parser.parse_args()
    trees = {name: Source(revision(name)) for name in options.revisions}
    trees = trees or {"working tree": Source(working_tree())}
    found = {name: asdict(source.figures()) for name, source in trees.items()}
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{'':44}" + "".join(f"{name[:12]:>14}" for name in found))
        for row in next(iter(found.values())):
            print(f"{row.replace('_', ' '):44}" + "".join(f"{each[row]:14,}" for each in found.values()))
    if options.names:
        print(*list(trees.values())[-1].to_look_at(), sep="\n")


if __name__ == "__main__":
    main()
