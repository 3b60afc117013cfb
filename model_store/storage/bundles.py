"""The part of a store that pods serve from: bundles by their ids."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from model_store.attestation import MANIFEST
from model_store.durable import let_everybody_read, settle, staging, supersede
from model_store.errors import Retryable
from model_store.storage.base import Missing
from model_store.storage.fetch import cached
from model_store.storage.place import Place, plain
from model_store.storage.shared import Shared
from model_store.storage.transfer import only_one


class Bundles(Place):
    """Folders that appear whole under their ids. What is in them, `model_store.bundle.publishing` knows."""

    def bundle_path(self, bundle_id: str) -> Path:
        """Where a bundle is in the folder, or would be; `bundle` brings it there."""
        return self.root / "bundles" / plain(bundle_id)

    def has_bundle(self, bundle_id: str) -> bool:
        """Whether a bundle is kept. In the folder it counts too: it was verified when it came there."""
        is_here = (self.bundle_path(bundle_id) / MANIFEST).is_file()
        return is_here or (self.shared is not None and self.shared.has_bundle(bundle_id))

    def manifest(self, bundle_id: str, *, here_first: bool = False) -> bytes:
        """A bundle's manifest as it was published; nothing else of it is read. Raises `Missing`.

        `here_first`: one that came here earlier will do, though it may have been signed anew since.
        """
        path = self.bundle_path(bundle_id) / MANIFEST
        if self.shared and not (here_first and path.is_file()):
            try:
                return self.shared.bundle(bundle_id).manifest()
            except (Missing, Retryable):
                if not path.is_file():
                    raise
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise Missing(
                f"there is no bundle {bundle_id} in {self.url}", remedy="publish the bundle again"
            ) from error

    def bundle(self, bundle_id: str) -> Path:
        """The folder of a bundle, fetched if it is not here. Raises `Missing`, `Corrupt`.

        What is here is enough while the bucket is away: whoever goes back to a version cannot wait for it.
        """
        path = self.bundle_path(bundle_id)
        if self.shared is None:
            return path
        source = self.shared.bundle(bundle_id)
        with only_one(self._lock(bundle_id)):
            try:
                return cached(source, source.manifest(), self.root)
            except (Missing, Retryable):
                # Missing: it was made here before there was a bucket.
                if not (path / MANIFEST).is_file():
                    raise
                return path

    def publish(self, bundle_id: str, write: Callable[[Path], None], *, replacing: bool = False) -> Path:
        """Let `write` fill a directory and give it its name.

        A bundle that is there is not written again, unless `replacing`: then it stays until the new one is
        whole, because it may be the one that serves.
        """
        if self.shared:
            return self._publish_shared(self.shared, bundle_id, write, replacing=replacing)
        final = self.bundle_path(bundle_id)
        if replacing or not final.is_dir():
            with staging(self._tmp) as staged:
                write(staged)
                let_everybody_read(staged)
                place = supersede if replacing else settle
                place(staged, final)
        try:
            os.utime(final)
        except FileNotFoundError:
            # It was old, and removed as garbage since we looked.
            return self.publish(bundle_id, write)
        return final

    def _publish_shared(
        self, shared: Shared, bundle_id: str, write: Callable[[Path], None], *, replacing: bool
    ) -> Path:
        """What another published meanwhile is taken instead: an id may have more than one build."""
        if replacing or not shared.has_bundle(bundle_id):
            with staging(self._tmp) as staged:
                write(staged)
                let_everybody_read(staged)
                if shared.put_bundle(bundle_id, staged, replacing=replacing):
                    with only_one(self._lock(bundle_id)):
                        supersede(staged, self.bundle_path(bundle_id))
        shared.touch_bundle(bundle_id)
        return self.bundle(bundle_id)
