"""A folder's files are parsed once, and again only when they changed."""

from __future__ import annotations

from pathlib import Path

from model_store.durable import write_file
from serving.control.queries.folders import Folder

LATER_NS = 10**19


class Parser:
    """Remembers what it was asked to parse."""

    def __init__(self) -> None:
        self.parsed: list[bytes] = []

    def __call__(self, content: bytes) -> int:
        self.parsed.append(content)
        return int(content)


def folder(path: Path, parser: Parser, *, now_ns: int = LATER_NS) -> Folder[int]:
    return Folder(path, parser, clock_ns=lambda: now_ns)


def test_what_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    parser = Parser()
    write_file(tmp_path / "a.json", b"1")
    write_file(tmp_path / "b.json", b"2")
    seen = folder(tmp_path, parser)
    assert seen.refresh()
    assert dict(seen.files) == {"a": 1, "b": 2}
    assert not seen.refresh()
    write_file(tmp_path / "b.json", b"33")
    assert seen.refresh()
    assert dict(seen.files) == {"a": 1, "b": 33}
    assert sorted(parser.parsed) == [b"1", b"2", b"33"]


def test_a_folder_that_changed_just_now_is_looked_at_again(tmp_path: Path) -> None:
    write_file(tmp_path / "a.json", b"1")
    seen = folder(tmp_path, Parser(), now_ns=tmp_path.stat().st_mtime_ns + 1000)
    assert seen.refresh()
    assert seen.refresh()


def test_files_that_are_not_what_they_should_be_are_left_out(tmp_path: Path) -> None:
    write_file(tmp_path / "a.json", b"1")
    write_file(tmp_path / "b.json", b"no number")
    write_file(tmp_path / "c.txt", b"3")
    seen = folder(tmp_path, Parser())
    seen.refresh()
    assert dict(seen.files) == {"a": 1}


def test_a_folder_may_come_and_go(tmp_path: Path) -> None:
    seen = folder(tmp_path / "later", Parser())
    assert not seen.refresh()
    write_file(tmp_path / "later" / "a.json", b"1")
    assert seen.refresh()
    (tmp_path / "later" / "a.json").unlink()
    (tmp_path / "later").rmdir()
    assert seen.refresh()
    assert dict(seen.files) == {}
