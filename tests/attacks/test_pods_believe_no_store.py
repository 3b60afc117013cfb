"""Somebody writes into the store and has a pod start: each attack is served by a pod that verifies nothing,
and refused by one that has the public key.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from onnx import numpy_helper

from model_store.attestation import VARIABLE
from model_store.durable import digest_file
from model_store.signing import Keyring, distrust_older, rotate
from serving.supervision.ports import LOCALHOST, free_ports
from tests.bundles import make_bundle, mlp
from tests.unit.serving.pod.held_engine import eventually

MODEL = "credit_risk/1/model.onnx"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "bundle_keys.json"


@pytest.fixture
def bundle(tmp_path: Path, keys: Path) -> Path:
    return make_bundle(tmp_path, mlp(), keys=keys)


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def flip_a_byte(bundle: Path) -> None:
    """Of a weight, so that the model still loads."""
    content = bytearray((bundle / MODEL).read_bytes())
    weights = numpy_helper.to_array(onnx.load_model(bundle / MODEL).graph.initializer[0])
    content[content.index(weights.tobytes())] ^= 1
    (bundle / MODEL).write_bytes(content)


def negate_the_weights(bundle: Path) -> None:
    """With digests that fit: only the signature does not."""
    model = onnx.load_model(bundle / MODEL)
    for weights in model.graph.initializer:
        weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    onnx.save_model(model, bundle / MODEL)
    digest = digest_file(bundle / MODEL)
    edit(bundle, lambda manifest: manifest.update(digest=digest, files={MODEL: digest}))


def forget_the_files(bundle: Path) -> None:
    negate_the_weights(bundle)
    edit(bundle, lambda manifest: manifest.pop("files"))


def forget_the_signature(bundle: Path) -> None:
    negate_the_weights(bundle)
    edit(bundle, lambda manifest: manifest.pop("signature"))


def add_a_file(bundle: Path) -> None:
    (bundle / "credit_risk" / "1" / "sitecustomize.py").write_text("print('mine')")


@contextmanager
def a_pod(bundle: Path, *arguments: str, keys: str = "") -> Iterator[tuple[int, subprocess.Popen[str]]]:
    (port,) = free_ports(range(18500, 18900), 1)
    command = [sys.executable, "-m", "serving.pod", "--bundle", str(bundle), "--port", str(port), *arguments]
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environ |= {VARIABLE: keys} if keys else {}
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pod:
        try:
            yield port, pod
        finally:
            pod.kill()


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://{LOCALHOST}:{port}/v2/health/ready", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def served(bundle: Path, *arguments: str, keys: str = "") -> bool:
    with a_pod(bundle, *arguments, keys=keys) as (port, pod):
        eventually(lambda: is_ready(port) or pod.poll() is not None, seconds=120)
        return is_ready(port)


def refusal(bundle: Path, keys: str) -> str:
    with a_pod(bundle, keys=keys) as (_, pod):
        said, _ = pod.communicate(timeout=120)
        assert pod.returncode == 1
        return said


ATTACKS = {
    flip_a_byte: "model.onnx is not what was signed",
    negate_the_weights: "was changed after it was signed",
    forget_the_files: "was changed after it was signed",
    forget_the_signature: "is not signed",
    add_a_file: "sitecustomize.py is not what was signed",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_was_not_signed_is_not_served(attack: Callable[[Path], None], bundle: Path, keys: Path) -> None:
    trusted = Keyring.of(keys).trust.written()
    attack(bundle)
    assert ATTACKS[attack] in refusal(bundle, trusted)
    assert served(bundle, "--unverified"), "the attack is none"


def test_a_signed_bundle_under_the_name_of_another_is_not_served(
    bundle: Path, keys: Path, tmp_path: Path
) -> None:
    """An old version could come back so."""
    trusted = Keyring.of(keys).trust.written()
    old = make_bundle(tmp_path / "old", mlp(seed=7), keys=keys)
    old.rename(tmp_path / ("f" * 24))
    assert "holds the bundle" in refusal(tmp_path / ("f" * 24), trusted)
    assert served(bundle, keys=trusted)


def test_a_pod_that_nobody_told_whom_to_trust_serves_nothing(bundle: Path) -> None:
    assert "says no public key to verify it with" in refusal(bundle, "")


def test_keys_rotate_and_one_that_was_given_up_is_refused(bundle: Path, keys: Path) -> None:
    rotate(keys)
    assert served(bundle, keys=Keyring.of(keys).trust.written())
    distrust_older(keys)
    assert "which is not trusted here" in refusal(bundle, Keyring.of(keys).trust.written())
