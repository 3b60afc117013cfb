"""The file of API keys: what is wrong with it is said, and a pod that runs keeps the keys it has."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from model_store.errors import Permanent
from serving.runtime import __main__ as pod
from serving.runtime.keys import KeyRing, add_key, main

DIGEST = "ab" * 32


def row(**changes: object) -> dict[str, object]:
    return {"name": "shop", "sha256": DIGEST, "rate": 0, "burst": 0, **changes}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "line 1, column 1: Expecting value"),
        ('{"clients": [\n  {"name": "shop",}\n]}', "line 2, column "),
        ("\udcff", "its bytes are no text"),
        ("7", 'an object with a list named "clients"'),
        ("[]", 'an object with a list named "clients"'),
        ('{"clients": {}}', 'an object with a list named "clients"'),
        (json.dumps({"clients": [row(), "shop"]}), "client 2: "),
        (json.dumps({"clients": [{"name": "shop"}]}), "client 1 has no 'sha256'"),
        (json.dumps({"clients": [{"sha256": DIGEST}]}), "client 1 has no 'name'"),
        (json.dumps({"clients": [row(sha256="no hex")]}), "client 1: "),
        (json.dumps({"clients": [row(sha256=7)]}), "client 1: "),
        (json.dumps({"clients": [row(sha256="abcd")]}), "has 4 hex digits and not 64"),
        (json.dumps({"clients": [row(rate="many")]}), "client 1: could not convert"),
        (json.dumps({"clients": [row(rate=-1)]}), "client 1: rate -1 and burst 1 are no limits"),
        (json.dumps({"clients": [row(rate="nan")]}), "are no limits"),
    ],
)
def test_a_file_that_is_none_says_where_and_what_to_do(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "api-keys.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(Permanent) as refused:
        KeyRing(path, lambda: 0.0)
    assert refused.value.problem.startswith(f"{path} is no file of API keys: ")
    assert said in refused.value.problem
    assert "mend it" in refused.value.remedy
    if not said.startswith(("client", "are no", "has 4")):
        with pytest.raises(Permanent, match="is no file of API keys"):
            add_key(path, "other")
        assert path.read_bytes() == content.encode(errors="surrogateescape")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="No such file or directory"):
        KeyRing(tmp_path / "none.json", lambda: 0.0)


def test_a_pod_does_not_start_and_says_why(
    tmp_path: Path, mlp_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "api-keys.json"
    path.write_text('{"clients": [')
    arguments = ["--bundle", str(mlp_bundle), "--port", "0", "--api-keys", str(path)]
    assert pod.main(arguments) == 1
    said = capsys.readouterr().err
    assert f"{path} is no file of API keys: line 1, column 14" in said
    assert "remedy: mend it" in said
    assert "Traceback" not in said


def test_a_key_for_a_broken_file_is_refused_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "api-keys.json"
    path.write_text("{")
    assert main([str(path), "shop"]) == 1
    assert "remedy: mend it" in capsys.readouterr().err


def test_what_breaks_later_leaves_the_keys_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "api-keys.json"
    add_key(path, "shop")
    ring = KeyRing(path, lambda: 0.0)
    known = dict(ring.clients)
    path.write_text("{")
    os.utime(path, (1, 1))
    with pytest.raises(Permanent):
        ring.reload()
    assert ring.clients == known
