"""The names that an installed Slipway has (`slipway.serving.platforms.base`), in a clone.

Who extends Slipway writes those. In a wheel this package holds the folders (deploy/wheel.py); here each of
its modules is the repository's own, under a second name: one module, so there is one `Permanent` to catch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_PACKAGES = ("model_store", "serving", "demo", "examples")


class _SecondName(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        own = fullname.removeprefix(f"{__name__}.")
        if own == fullname or own.partition(".")[0] not in _PACKAGES:
            return None
        return ModuleSpec(fullname, self) if find_spec(own) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(spec.name.removeprefix(f"{__name__}."))
        self._own_specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its own name; importlib has just given it the second one's spec."""
        assert module.__spec__ is not None
        module.__spec__ = self._own_specs.pop(module.__spec__.name)

    def __init__(self) -> None:
        self._own_specs: dict[str, ModuleSpec | None] = {}


sys.meta_path.insert(0, _SecondName())
