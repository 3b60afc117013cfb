"""What this machine runs where others run a part of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serving.home import Home, Ports
from serving.local_stack.components import components, supervised


def test_a_stack_whose_controller_is_elsewhere_starts_neither_it_nor_envoy(tmp_path: Path) -> None:
    here = Home(tmp_path, Ports())
    assert supervised(here).keys() == components(here).keys()
    elsewhere = replace(here, controller_at="http://controller:8484")
    assert components(here).keys() - supervised(elsewhere).keys() == {"controller", "envoy"}
