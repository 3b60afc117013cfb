"""Hears at once of pods that change, so that nobody has to wait for the next look.

A watch only says that something happened: what is true is read from lists (`.observation`), which are looked
at all the same. So a watch that goes silent, breaks, or is not allowed costs a second or two and nothing else
(kubernetes-client/python 2462).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator

from model_store.errors import SlipwayError
from serving.platforms.kubernetes import names
from serving.platforms.kubernetes.api import ClusterApi, Denied, Object

# The server ends a watch after so long, and is given up soon after: a silent one is begun anew.
WATCH_SECONDS = 30
_AGAIN_SECONDS = 1.0
_NOT_ALLOWED_SECONDS = 300.0

log = logging.getLogger(__name__)

Heard = Callable[[Object], None]


def follow(api: ClusterApi, namespace: str, installation: str, heard: Heard, ending: threading.Event) -> None:
    """Call `heard` with each pod of ours that changes, until the event is set."""
    while not ending.is_set():
        try:
            for pod in _changes(api, namespace, installation):
                heard(pod)
                if ending.is_set():
                    return
        except Denied as problem:
            log.info("pods of %s are looked at, not followed: %s", namespace, problem.problem)
            ending.wait(_NOT_ALLOWED_SECONDS)
        except (SlipwayError, ValueError, LookupError, TypeError) as problem:
            log.debug("pods of %s are followed again: %s", namespace, problem)
            ending.wait(_AGAIN_SECONDS)


def _changes(api: ClusterApi, namespace: str, installation: str) -> Iterator[Object]:
    """From now on, for `WATCH_SECONDS`. A version that the server has forgotten (410) ends it as well."""
    labels = names.selector(installation)
    since = api.version("Pod", namespace, labels=labels)
    for line in api.watch("Pod", namespace, labels=labels, since=since, seconds=WATCH_SECONDS):
        event = json.loads(line)
        if event["type"] == "ERROR":
            return
        if event["type"] != "BOOKMARK":
            yield event["object"]
