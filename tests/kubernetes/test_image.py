"""The image of pods: small, nobody's, and nothing in it that a pod does not need."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.kubernetes import cluster as clusters

pytestmark = pytest.mark.kubernetes

NAME = "slipway-pod:test"


@pytest.fixture(scope="module")
def built(image: str) -> str:
    if not image.endswith(NAME):
        pytest.skip("the image is somebody else's (SLIPWAY_TEST_POD_IMAGE)")
    return NAME


def inside(*command: str) -> subprocess.CompletedProcess[str]:
    """As pods run it: nobody's, without a network, and nothing can be written."""
    run = ["docker", "run", "--rm", "--read-only", "--network=none", f"--entrypoint={command[0]}"]
    return subprocess.run([*run, NAME, *command[1:]], capture_output=True, text=True, timeout=60, check=False)


def test_it_is_under_400_mb_and_says_what_it_is(built: str) -> None:
    found = clusters.inspected(built)
    assert found["Size"] < 400e6
    assert found["Config"]["User"] == "10001:10001"
    assert found["Config"]["Labels"]["org.opencontainers.image.title"] == "slipway-pod"


def test_it_starts_a_pod_and_fetches_bundles_and_imports_what_they_may_ask_for(built: str) -> None:
    assert inside("python", "-m", "serving.pod", "--help").returncode == 0
    assert "--cache" in inside("fetch-bundle", "--help").stdout
    # Whose request log is kept, whose cache is shared.
    wanted = inside("python", "-c", "import pyarrow.parquet, redis, obstore, onnxruntime")
    assert wanted.returncode == 0, wanted.stderr


def test_it_says_which_packages_it_is_made_of(built: str) -> None:
    said = json.loads(inside("cat", "/opt/slipway/sbom.cdx.json").stdout)
    found = {each["name"]: each["purl"] for each in said["components"]}
    assert found["onnxruntime"].startswith("pkg:pypi/onnxruntime@1.")
    assert found["libc6"].startswith("pkg:deb/debian/libc6@")
    # Nothing is imported that is not named.
    installed = inside("sh", "-c", "ls -d /opt/packages/*.dist-info").stdout.split()
    assert len(installed) == sum(purl.startswith("pkg:pypi/") for purl in found.values())


def test_nothing_can_be_installed_in_it(built: str) -> None:
    for program in ("pip", "apt-get", "perl", "gcc"):
        found = inside("python", "-c", f"import shutil; assert shutil.which({program!r}) is None")
        assert found.returncode == 0, program
