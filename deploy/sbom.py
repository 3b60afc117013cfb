"""What an image is made of, as CycloneDX 1.5: Python's packages and the system's, each with its version.

    python sbom.py NAME VERSION PACKAGES > sbom.cdx.json

PACKAGES: the folder that pip installed into. Run in the image itself, of Debian.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions

DPKG = ("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n")


def main(name: str, version: str, packages: str) -> None:
    found = sorted([*python_packages(packages), *system_packages()], key=lambda each: each["purl"])
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version}},
        "components": found,
    }
    json.dump(document, sys.stdout, indent=1)


def python_packages(folder: str) -> Iterator[dict[str, str]]:
    for each in distributions(path=[folder]):
        name = each.metadata["Name"].lower().replace("_", "-")
        yield component(each.metadata["Name"], each.version, f"pkg:pypi/{name}@{each.version}")


def system_packages() -> Iterator[dict[str, str]]:
    listed = subprocess.run(DPKG, capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name, version, architecture = line.split()
        yield component(name, version, f"pkg:deb/debian/{name}@{version}?arch={architecture}")


def component(name: str, version: str, purl: str) -> dict[str, str]:
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


if __name__ == "__main__":
    main(*sys.argv[1:])
