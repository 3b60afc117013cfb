"""`python -m model_store.release_spec FILE...` checks specs; `--json-schema` prints the schema for
editors.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from model_store.release_spec import InvalidSpec, ReleaseSpec, load


def main(arguments: list[str]) -> int:
    """Exit status 0 only if every file is a valid spec."""
    parser = argparse.ArgumentParser(prog="python -m model_store.release_spec", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--json-schema", action="store_true", help="print the JSON schema of a spec")
    asked = parser.parse_args(arguments)
    if asked.json_schema:
        sys.stdout.write(json.dumps(ReleaseSpec.model_json_schema(), indent=2) + "\n")
    elif not asked.files:
        parser.error("name a FILE, or --json-schema")
    return max([_check(path) for path in asked.files], default=0)


def _check(path: Path) -> int:
    try:
        spec = load(path)
    except InvalidSpec as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write(f"{path}: releases {spec.model}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
