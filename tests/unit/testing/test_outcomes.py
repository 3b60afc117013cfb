"""What `./slipway test` makes of tests that fail, of tests that are skipped, and what its last lines say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from model_store.installation import ROOT as REPOSITORY
from tests.outcomes import MOST_REPEATED, Outcomes, closing_lines, run_tests, slowest_lines

ONCE = """
import os
from pathlib import Path

LOG = Path(__file__).with_name("log")

def log(name):
    with LOG.open("a") as file:
        file.write(f"{name} {os.getpid()}\\n")
    return LOG.read_text().count(f"{name} ")

"""


# Loading every plugin that is installed would take most of the time.
ONLY = ("--disable-plugin-autoload", "-p", "xdist", "-p", "pytest_reportlog.plugin", "-p", "no:cacheprovider")


class Suite:
    """A folder of tests that write down when and in which process they ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu\n  story\n")
        shutil.copy(REPOSITORY / "tests" / "conftest.py", folder)

    def write(self, *lines: str, name: str = "test_it.py") -> Suite:
        (self.folder / name).write_text(ONCE + "\n".join(lines))
        return self

    def run(self, *arguments: str) -> Outcomes:
        def run(command: tuple[str, ...]) -> int:
            return subprocess.run([*command, *ONLY], cwd=self.folder, check=False).returncode

        return run_tests(run, ".", *arguments)

    def ran(self) -> list[tuple[str, ...]]:
        """Name and process, in order."""
        return [tuple(line.split()) for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


FAILS_ONCE = ("def test_fails_once():", "    assert log('once') == 2")
PASSES = ("def test_passes():", "    log('passes')")


@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_what_failed_once_and_passes_alone_is_named_as_flaky(suite: Suite, workers: tuple[str, ...]) -> None:
    outcomes = suite.write(*FAILS_ONCE, *PASSES).run(*workers)
    assert outcomes.status == 0
    assert outcomes.flaky == {"test_it.py::test_fails_once"}
    lines = closing_lines(outcomes)
    assert "  test_it.py::test_fails_once" in lines
    assert lines[-1] == "2 passed, 0 failed, 0 skipped"


def test_it_is_repeated_after_the_others_in_a_process_of_its_own(suite: Suite) -> None:
    suite.write(*FAILS_ONCE, *PASSES).run()
    (first, process), (others, _), (again, another) = suite.ran()
    assert (first, others, again) == ("once", "passes", "once")
    assert process != another


def test_what_fails_twice_fails_the_run(suite: Suite) -> None:
    outcomes = suite.write("def test_fails():", "    assert log('fails') > 2", *PASSES).run()
    assert outcomes.status == 1
    assert outcomes.failed == {"test_it.py::test_fails"}
    assert not outcomes.flaky
    assert [name for name, _ in suite.ran()] == ["fails", "passes", "fails"]
    assert closing_lines(outcomes)[-1] == "1 passed, 1 failed, 0 skipped"


def test_after_one_that_failed_twice_nothing_is_repeated(suite: Suite) -> None:
    suite.write("def test_a():", "    assert log('a') < 0", "def test_b():", "    assert log('b') == 2").run()
    assert [name for name, _ in suite.ran()] == ["a", "b", "a"]


def test_of_a_story_the_whole_module_is_repeated_once(suite: Suite) -> None:
    story = ("import pytest", "pytestmark = pytest.mark.story", "STATE = []")
    begins = ("def test_begins():", "    STATE.append(1)", "    assert log('begins')")
    goes_on = ("def test_goes_on():", "    assert STATE", "    assert log('goes_on') > 1")
    ends = ("def test_ends():", "    assert STATE", "    assert log('ends') > 1")
    outcomes = suite.write(*story, *begins, *goes_on, *ends).run()
    assert outcomes.status == 0
    assert outcomes.flaky == {"test_it.py::test_goes_on", "test_it.py::test_ends"}
    assert [name for name, _ in suite.ran()] == ["begins", "goes_on", "ends"] * 2


def test_tests_whose_setup_failed_share_it_again_when_they_are_repeated(suite: Suite) -> None:
    fixture = ("import pytest", "@pytest.fixture(scope='module')", "def made():")
    fails = ("    assert log('made') == 2",)
    tests = ("def test_a(made):", "    log('a')", "def test_b(made):", "    log('b')")
    outcomes = suite.write(*fixture, *fails, *tests).run()
    assert outcomes.flaky == {"test_it.py::test_a", "test_it.py::test_b"}
    assert [name for name, _ in suite.ran()] == ["made", "made", "a", "b"]


@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_a_test_that_took_its_process_along_is_repeated_too(suite: Suite, workers: tuple[str, ...]) -> None:
    outcomes = suite.write("def test_dies():", "    assert log('dies') > 1 or os._exit(3)").run(*workers)
    # Without workers pytest itself is gone, and nobody knows what else it would have run.
    assert outcomes.status == (0 if workers else 1)
    assert outcomes.flaky == ({"test_it.py::test_dies"} if workers else set())


def test_an_error_around_a_test_counts_as_its_failure(suite: Suite) -> None:
    fixture = ("import pytest", "@pytest.fixture", "def around():", "    yield", "    assert log('end') == 2")
    outcomes = suite.write(*fixture, "def test_ends_badly(around):", "    pass").run()
    assert outcomes.flaky == {"test_it.py::test_ends_badly"}
    assert outcomes.passed == outcomes.flaky


def test_where_many_fail_nothing_is_repeated(suite: Suite) -> None:
    many = f"@pytest.mark.parametrize('n', range({MOST_REPEATED + 1}))"
    outcomes = suite.write("import pytest", many, "def test_fails(n):", "    assert log('fails') < 0").run()
    assert outcomes.status == 1
    assert len(outcomes.failed) == len(suite.ran()) == MOST_REPEATED + 1


@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_a_module_that_cannot_be_imported_fails_the_run(suite: Suite, workers: tuple[str, ...]) -> None:
    suite.write("import not_there", name="test_broken.py")
    outcomes = suite.write(*PASSES).run(*workers)
    assert outcomes.status == 1
    assert not outcomes.interrupted


def test_a_run_without_any_test_has_failed(suite: Suite) -> None:
    assert suite.run().status == 1


def test_what_is_skipped_is_counted_by_reason_with_the_command_that_brings_it() -> None:
    skipped = {"a": "promtool is not here", "b": "promtool is not here", "c": "no GPU here"}
    lines = closing_lines(Outcomes(passed={"d"}, skipped=skipped))
    assert lines == [
        "Not tested: 3",
        "     2 promtool is not here",
        "     1 no GPU here",
        "  To test what lacks a program: sudo apt-get install -y prometheus",
        "1 passed, 0 failed, 3 skipped",
    ]


SKIPS = ("import pytest", "def test_skips():", "    pytest.skip('no such program here')")
WITHOUT_A_GPU = ("import pytest", "@pytest.mark.gpu", *SKIPS[1:])


@pytest.mark.parametrize(
    "lines",
    [
        SKIPS,
        ("import pytest", "@pytest.mark.skipif(True, reason='no such program here')", *PASSES),
        ("import pytest", "pytest.skip('no such program here', allow_module_level=True)"),
    ],
)
def test_where_everything_has_to_be_here_a_skipped_test_has_failed(
    suite: Suite, lines: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLIPWAY_SKIP_NOTHING", raising=False)
    suite.write(*PASSES, name="test_other.py")
    assert suite.write(*lines).run().status == 0
    monkeypatch.setenv("SLIPWAY_SKIP_NOTHING", "1")
    assert suite.run().status == 1
    assert "no such program here" in capfd.readouterr().out


def test_a_gpu_may_be_missing_everywhere(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_SKIP_NOTHING", "1")
    outcomes = suite.write(*WITHOUT_A_GPU).run()
    assert outcomes.status == 0
    assert outcomes.skipped == {"test_it.py::test_skips": "no such program here"}


def test_the_files_that_took_longest_are_named_with_what_they_set_up(suite: Suite) -> None:
    suite.write(
        "import pytest, time",
        "@pytest.fixture",
        "def slow():",
        "    time.sleep(1.2)",
        "def test_waits(slow): pass",
        name="test_slow.py",
    )
    outcomes = suite.write("def test_passes(): pass").run()
    (line,) = slowest_lines(outcomes)
    assert line.endswith(" s in test_slow.py")
