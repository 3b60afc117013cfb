"""Only what this installation signed is deployed, down to the byte; keys are its owner's, and can rotate."""

from __future__ import annotations

import base64
import json
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.bundle.publishing import BundleContents, load_bundle, open_bundle, publish, sign_again
from model_store.durable import digest_file
from model_store.errors import Permanent
from model_store.signing import Keyring, NotSigned, distrust_older, public_part, rotate
from model_store.storage.base import Corrupt
from model_store.storage.store import Store
from model_store.types import GateReport, ModelRef, TensorSpec
from serving.home import Home
from tests.bundles import mlp
from tests.small_models import keep


@pytest.fixture
def contents(store: Store) -> BundleContents:
    return BundleContents(
        model=ModelRef("fraud", 1),
        served=keep(store, mlp().SerializeToString()),
        inputs=(TensorSpec("input", "FP32", (-1, 4)),),
        outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
        serving={"runtime": "onnxruntime", "max_batch_size": 8, "max_queue_delay_ms": 1.0, "threads": 1},
        session_config={},
        warmup={"input": np.zeros((2, 4), np.float32)},
        report=GateReport("sha256:data", ()),
        evidence={"p50_ms": 0.1 + 0.2},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_published_bundle_is_signed_and_may_be_deployed(store: Store, contents: BundleContents) -> None:
    published = publish(store, contents)
    assert open_bundle(store, published.id) == published
    assert published.signature.startswith("ed25519:")


def test_what_a_trusted_key_signed_can_be_signed_again_before_the_key_is_given_up(
    store: Store, contents: BundleContents
) -> None:
    bundle = publish(store, contents)
    assert not sign_again(store, bundle.id)
    rotate(store.keys)
    assert sign_again(store, bundle.id)
    distrust_older(store.keys)
    assert open_bundle(store, bundle.id).id == bundle.id


def test_what_nobody_trusted_signed_is_signed_again_only_if_a_person_vouches_for_it(
    store: Store, contents: BundleContents
) -> None:
    bundle = publish(store, contents)
    edit(bundle.path, lambda manifest: manifest.pop("signature"))
    with pytest.raises(NotSigned, match="is not signed"):
        sign_again(store, bundle.id)
    assert sign_again(store, bundle.id, vouched_for=True)
    assert open_bundle(store, bundle.id).id == bundle.id


def test_a_model_that_was_exchanged_with_its_digest_is_refused(
    store: Store, contents: BundleContents
) -> None:
    """Whoever can write to the store can make every digest fit; not the signature."""
    bundle = publish(store, contents)
    served = bundle.path / "fraud" / "1" / "model.onnx"
    served.write_bytes(mlp(seed=9).SerializeToString())
    edit(bundle.path, lambda m: m["files"].update({"fraud/1/model.onnx": digest_file(served)}))
    load_bundle(bundle.path)
    with pytest.raises(NotSigned, match="changed after it was signed\n  remedy: Nothing of it was started"):
        open_bundle(store, bundle.id)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["serving"].update(max_batch_size=9),
        lambda m: m["model"].update(version=2),
        lambda m: m.update(more=1),
        lambda m: m.pop("lineage"),
    ],
)
def test_any_other_word_in_the_manifest_is_refused(
    store: Store, contents: BundleContents, change: Callable[[dict[str, Any]], object]
) -> None:
    bundle = publish(store, contents)
    edit(bundle.path, change)
    with pytest.raises(NotSigned, match="changed after it was signed"):
        open_bundle(store, bundle.id)


@pytest.mark.parametrize("signature", [None, "", "ed25519:", "none:x:y", "ed25519:abc", 7])
def test_a_bundle_without_a_signature_is_refused_and_publishing_signs_it_anew(
    store: Store, contents: BundleContents, signature: object
) -> None:
    bundle = publish(store, contents)
    edit(bundle.path, lambda m: m.update(signature=signature))
    with pytest.raises(NotSigned, match="is not signed"):
        open_bundle(store, bundle.id)
    assert open_bundle(store, publish(store, contents).id).id == bundle.id


def test_a_bundle_that_is_not_trusted_stays_until_its_successor_is_whole(
    store: Store, contents: BundleContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod may be serving it, and must be able to start again."""
    bundle = publish(store, contents)
    edit(bundle.path, lambda m: m.pop("signature"))

    def full(*_: object) -> None:
        assert load_bundle(bundle.path).id == bundle.id
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("model_store.bundle.publishing._write", full)
        with pytest.raises(OSError, match="no space"):
            publish(store, contents)
    assert load_bundle(bundle.path).id == bundle.id
    assert open_bundle(store, publish(store, contents).id).id == bundle.id
    assert list((store.root / "tmp").iterdir()) == []


def test_a_signature_of_rubbish_is_refused(store: Store, contents: BundleContents) -> None:
    bundle = publish(store, contents)
    _, signer, _ = bundle.signature.split(":")
    edit(bundle.path, lambda m: m.update(signature=f"ed25519:{signer}:AAAA"))
    with pytest.raises(NotSigned, match="changed after"):
        open_bundle(store, bundle.id)


def test_another_installations_bundle_is_refused(
    store: Store, contents: BundleContents, tmp_path: Path
) -> None:
    bundle = publish(store, contents)
    theirs = Keyring.of(tmp_path / "theirs.json")
    edit(bundle.path, lambda m: m.update(signature=theirs.sign(m)))
    with pytest.raises(NotSigned, match="which is not trusted here"):
        open_bundle(store, bundle.id)


def test_a_signed_bundle_under_another_ones_name_is_refused(store: Store, contents: BundleContents) -> None:
    """Else an old version with a known hole could be put where the new one is expected."""
    bundle = publish(store, contents)
    other = store.bundle_path("ab" * 12)
    bundle.path.rename(other)
    with pytest.raises(Corrupt, match=f"holds the bundle {bundle.id}"):
        open_bundle(store, "ab" * 12)


def test_keys_rotate_and_old_bundles_stay_good_until_they_are_distrusted(
    store: Store, contents: BundleContents
) -> None:
    bundle = publish(store, contents)
    new = rotate(store.keys)
    assert open_bundle(store, bundle.id).id == bundle.id
    assert publish(store, contents).signature == bundle.signature, "what is good is not written again"
    (old,) = distrust_older(store.keys)
    assert bundle.signature.split(":")[1] == old != new
    with pytest.raises(NotSigned, match=f"by the key {old}, which is not trusted"):
        open_bundle(store, bundle.id)
    assert publish(store, contents).signature.split(":")[1] == new


def test_keys_are_made_once_for_their_owner_alone_and_outside_the_store(store: Store) -> None:
    path = store.keys
    made: list[Keyring] = []
    threads = [threading.Thread(target=lambda: made.append(Keyring.of(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len({keyring.seeds for keyring in made}) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rotate(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.is_relative_to(store.root)
    assert "seeds" not in repr(made[0])


def test_the_keys_of_an_installation_are_in_its_home(tmp_path: Path) -> None:
    home = Home.locate({"SLIPWAY_HOME": str(tmp_path)})
    assert Store(home.store).keys == home.bundle_keys == tmp_path / "bundle_keys.json"


@pytest.mark.parametrize("content", ["", "{}", '{"keys": []}', '{"keys": ["AAAA"]}', '{"keys": ["?"]}'])
def test_a_file_without_keys_is_named_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(Permanent, match=r"keys\.json holds no signing keys(?s:.*)Restore it from a backup"):
        Keyring.of(tmp_path / "keys.json")


def test_who_has_public_keys_alone_verifies_and_signs_nothing(
    store: Store, contents: BundleContents, tmp_path: Path
) -> None:
    bundle = publish(store, contents)
    rotate(store.keys)
    (tmp_path / "public.json").write_bytes(public_part(store.keys))
    assert not any(base64.b64encode(seed) in public_part(store.keys) for seed in store.keyring().seeds)
    elsewhere = Store(store.root, keys=tmp_path / "public.json")
    assert open_bundle(elsewhere, bundle.id).id == bundle.id
    with pytest.raises(Permanent, match="they verify, and sign nothing"):
        elsewhere.keyring().sign({"id": "ab"})
    for change in (rotate, distrust_older):
        with pytest.raises(Permanent, match="they verify, and sign nothing"):
            change(elsewhere.keys)

    other = Store(tmp_path / "elsewhere" / "store")
    rotate(other.keys)
    (tmp_path / "public.json").write_bytes(public_part(other.keys))
    with pytest.raises(NotSigned, match="which is not trusted here"):
        open_bundle(elsewhere, bundle.id)
