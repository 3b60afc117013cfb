"""How one supervised process begins: `python -m serving.local_stack.launch NAME`, or `... pod SERVICE SLOT
N`.

supervisord only knows this command. It ends whatever a killed predecessor left behind (Airflow's workers and
tasks outlive their scheduler), prepares what the component needs, marks itself, and becomes the component.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from model_store.errors import Permanent, SlipwayError
from serving.home import Home
from serving.local_stack.components import BIN, SECRETS, common_environment, component
from serving.platforms import redis
from serving.platforms.pods import pod
from serving.supervision.component import Component
from serving.supervision.processes import HOME_MARK, PROGRAM_MARK, end, owned_by
from serving.types import Slot


def become(home: Home, program: Component) -> NoReturn:
    """End the predecessor's leftovers, prepare, and replace this process."""
    # Killed at once: whoever supervised them is gone, so nobody could use what they would still do.
    end([owned.process for owned in owned_by(home, program.name)], patience_seconds=0)
    for name in SECRETS - set(program.secrets):
        os.environ.pop(name, None)
    os.environ |= {**common_environment(home), **program.env}
    os.environ |= {HOME_MARK: str(home.root), PROGRAM_MARK: program.name}
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    program.prepare()
    os.nice(program.niceness)
    # Python looks for modules where it is started: where nobody keeps any.
    home.run.mkdir(parents=True, exist_ok=True)
    os.chdir(home.run)
    os.execv(program.argv[0], program.argv)


def main(arguments: list[str]) -> int:
    home = Home.locate()
    try:
        become(home, _program(home, arguments))
    except SlipwayError as error:
        print(error, file=sys.stderr)  # noqa: T201 - goes to the component's log
    return 1


def _program(home: Home, arguments: list[str]) -> Component:
    match arguments:
        case ["pod", service, slot, number]:
            return pod(home, service, Slot(slot), int(number))
        case [redis.PROGRAM]:
            return redis.component(home)
        case [name]:
            return component(home, name)
        case _:
            raise Permanent(f"cannot launch {arguments}", remedy="launch NAME, or launch pod SERVICE SLOT N")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
