"""The images of deploy/ that tests start containers and pods of."""

from __future__ import annotations

import os
import subprocess

from model_store.installation import ROOT as REPOSITORY

# What they are built on, where python:3.12-slim cannot be pulled and is not there.
BASE_IMAGE = "SLIPWAY_TEST_BASE_IMAGE"
# What pods are started from, built before: saves a build.
POD_IMAGE = "SLIPWAY_TEST_POD_IMAGE"


def base_image() -> str:
    return os.environ.get(BASE_IMAGE) or "python:3.12-slim"


def image_of(what: str) -> str:
    """Built of deploy/<what>.Dockerfile, or made before: where tests are told the pods' image, its siblings
    have their names by the same pattern."""
    if known := os.environ.get(POD_IMAGE):
        return known.replace("slipway-pod", f"slipway-{what}")
    name = f"slipway-{what}:test"
    build = ["docker", "build", "--quiet", "--network", "host", "--build-arg", f"BASE={base_image()}"]
    build += ["--file", f"deploy/{what}.Dockerfile", "--tag", name, "."]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=1200)
    return name
