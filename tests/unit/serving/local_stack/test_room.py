"""What a start finds out before it starts anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.installation import ROOT as REPOSITORY
from model_store.unwritable import unwritable
from serving.cli.app import app
from serving.home import Home, Ports
from serving.local_stack.prepare import prepare
from tests.mounts import small_disk

FOLDERS = ("airflow", "mlflow", "store", "logs", "run", "envoy", "pods", "audit", "releases")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_without_room_is_named_before_anything_starts(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path, Ports())
    prepare(home, ())
    with small_disk(tmp_path / name, kilobytes=4096) as disk:
        prepare(home, ())
        disk.fill()
        with pytest.raises(OSError, match="No space left on device") as full:
            prepare(home, ())
        why = unwritable(full.value)
        assert why
        assert why.problem == f"nothing can be written to {disk.root}: its disk is full"


@pytest.mark.parametrize("name", ["dags", "data"])
def test_what_is_only_read_may_lie_on_a_disk_that_nobody_writes(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path, Ports())
    with small_disk(tmp_path / name) as disk:
        disk.remount("ro")
        prepare(home, ())


def test_the_command_and_the_container_say_so_in_two_lines(tmp_path: Path) -> None:
    with small_disk(tmp_path / "home") as disk:
        disk.fill()
        environ = {"SLIPWAY_HOME": str(disk.root), "COLUMNS": "500"}
        done = CliRunner(env=environ).invoke(app, ["up"])
        words = f"nothing can be written to {disk.root}: its disk is full\n  remedy: make room there (df -h)"
        assert (done.exit_code, words in done.stderr) == (1, True), done.stderr
        command = [sys.executable, "-m", "serving.local_stack.prepare"]
        said = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (said.returncode, words in said.stderr) == (1, True), said.stderr
