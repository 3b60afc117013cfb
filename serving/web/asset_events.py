"""From "MLflow says something about this model" to an event of its asset, which starts its release DAG.

Deliveries come twice, late and in the wrong order, so none is believed on what happened: each is only a
reason to look at what the registry says now. However many come while somebody looks, one more look follows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from model_store.errors import SlipwayError
from serving.web.ports import Dags

log = logging.getLogger(__name__)


Tell = Callable[[str], None]


class AssetEventQueue:
    """Calls `look(model, kind)` in a thread of its own, for one model after the other.

    `look` returns what came of it in words, which everybody is told who asked for it.
    """

    def __init__(self, look: Callable[[str, str], str]) -> None:
        self._look = look
        # In the order of asking, each once; the newest kind of event is kept for the record.
        self._asked: dict[str, tuple[str, list[Tell]]] = {}
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_looking = False

    def ask(self, model: str, kind: str, tell: Tell = lambda words: None) -> None:
        """Look at this model soon, and `tell` what came of it."""
        with self._change:
            _, others = self._asked.get(model, (kind, []))
            self._asked[model] = kind, [*others, tell]
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="slipway-looks", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def wait(self, *, seconds: float) -> bool:
        """Whether everything asked for was looked at within this time."""
        with self._change:
            return self._change.wait_for(lambda: not self._asked and not self._is_looking, seconds)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: bool(self._asked))
                model = next(iter(self._asked))
                (kind, asked), self._is_looking = self._asked.pop(model), True
            words = self._look_once(model, kind)
            log.info("%s of %s: %s", kind, model, words)
            for tell in asked:
                _tell(tell, words)
            with self._change:
                self._is_looking = False
                self._change.notify_all()

    def _look_once(self, model: str, kind: str) -> str:
        try:
            return self._look(model, kind)
        except SlipwayError as problem:
            # The reconciler looks, too, and again and again.
            return f"came to nothing for now, the reconciler looks again: {problem}"
        except Exception as problem:
            log.exception("%s of %s came to nothing for now", kind, model)
            return f"came to nothing for now, the reconciler looks again: {type(problem).__name__}"


def _tell(tell: Tell, words: str) -> None:
    try:
        tell(words)
    except OSError as problem:
        log.warning("what came of a delivery is not written down: %s", problem)


def announce_if_new(dags: Dags, model: str, kind: str) -> str:
    """Let the release DAG begin of the version that the model's alias names, if nobody tried it or asked for
    it yet.

    Returns what came of it, in words.

    Raises `Retryable` while MLflow does not answer, and `Permanent` when it knows no such model.
    """
    from serving import composition
    from serving.control import aliases, wiring

    services, at = composition.wire(), wiring.now()
    alias = dags.alias_of(model)
    if alias is None:
        return f"no spec releases {model}"
    found = aliases.examine(services, model, alias, told_by=kind, at=at)
    if found.note:
        return found.note.words
    if found.ref is None:
        return f"the version that {alias} names serves, or is on its way"
    if not services.attempts.ask(found.ref, at=at):
        return f"Airflow was asked for {found.ref} a moment ago"
    dags.announce(found.ref, kind)
    return f"asked Airflow for {found.ref}"
