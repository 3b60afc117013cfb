"""doctor: what is wrong with this machine or this installation."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table
from rich.text import Text

from model_store.errors import Permanent
from serving.cli.output import console, print_json
from serving.home import Home
from serving.local_stack.doctor import Diagnosis, Level, examine

_STYLES = {Level.FINE: "green", Level.WARNING: "yellow", Level.BROKEN: "bold red"}


def doctor(home: Home, *, as_json: bool) -> None:
    """Print every diagnosis with its remedy. Raises `Permanent` (in JSON: exits 1) if something is broken."""
    diagnoses = examine(home)
    broken = [diagnosis for diagnosis in diagnoses if diagnosis.level is Level.BROKEN]
    if as_json:
        print_json({"healthy": not broken, "diagnoses": [asdict(diagnosis) for diagnosis in diagnoses]})
        raise typer.Exit(1 if broken else 0)
    console.print(_table(diagnoses))
    if broken:
        subjects = ", ".join(dict.fromkeys(diagnosis.subject for diagnosis in broken))
        raise Permanent(f"broken: {subjects}", remedy="Each line above says its own.")


def _table(diagnoses: list[Diagnosis]) -> Table:
    table = Table.grid(padding=(0, 2))
    for diagnosis in diagnoses:
        words = Text(diagnosis.found)
        if diagnosis.remedy:
            words.append(f"\nremedy: {diagnosis.remedy}", style="bold")
        table.add_row(Text(diagnosis.level.value, style=_STYLES[diagnosis.level]), diagnosis.subject, words)
    return table
