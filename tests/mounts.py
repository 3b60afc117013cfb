"""Real disks that take nothing more: small ones in memory, where the account may mount them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FILLING = ".filling"


class SmallDisk:
    """A tmpfs at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self) -> None:
        """To the last byte."""
        with (self.root / _FILLING).open("wb", buffering=0) as file:
            with_room = True
            while with_room:
                try:
                    with_room = file.write(b"\0" * 4096) == 4096
                except OSError:
                    with_room = False

    def make_room(self) -> None:
        (self.root / _FILLING).unlink()

    def remount(self, how: str) -> None:
        """`ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.root)], check=True)


@contextmanager
def small_disk(root: Path, kilobytes: int = 512) -> Iterator[SmallDisk]:
    """A disk of its own at the folder. Skips the test where this account may not mount one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    root.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "slipway-test", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)
