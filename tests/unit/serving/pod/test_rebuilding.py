"""A pod whose bundle has engines for other GPUs only builds one for its own, or says why it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model_store.bundle.publishing import BundleContents, publish
from model_store.engines import nvml, rebuilding
from model_store.engines.manifest import BuiltFile, Manifest, read_manifest
from model_store.engines.rebuilding import rebuilt
from model_store.errors import Permanent
from model_store.storage.store import Store
from model_store.types import GateReport, ModelRef, TensorSpec, Toolchain
from tests.bundles import make_bundle, mlp

WHY = "the engine of credit_risk was built for GPU SM86, this one is SM90"
BUILDERS = {
    "builds": """
import json, sys
from pathlib import Path
request = json.loads(Path(sys.argv[1]).read_text())
counted = Path(__file__).with_name("count")
counted.write_text(counted.read_text() + "x" if counted.exists() else "x")
Path(request["wrapped"]).write_bytes(b"engine of " + Path(request["model"]).read_bytes()[:8])
Path(request["result"]).write_text(json.dumps({"version": "10.6.0", "gpu_arch": "SM90"}))
""",
    "refuses": """
import json, sys
from pathlib import Path
request = json.loads(Path(sys.argv[1]).read_text())
Path(request["result"]).write_text(json.dumps({"reason": "tensorrt_bindings does not load"}))
""",
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
}


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    for name, text in BUILDERS.items():
        (tmp_path / f"{name}_builder.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(nvml, "architecture", lambda: "SM90")
    monkeypatch.setattr(rebuilding, "_version", lambda: "10.6.0")
    found = read_manifest(make_bundle(tmp_path, mlp()))
    source = BuiltFile(found.file, found.digest, {"compiler": "onnx"})
    return replace(found, platform="tensorrt", toolchain={"gpu_arch": "SM86"}, source=source)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {rebuilding.FOLDER: str(tmp_path / "engines")}


def satisfied(manifest: Manifest) -> None:
    assert manifest.file.read_bytes().startswith(b"engine of")


def dissatisfied(manifest: Manifest) -> None:
    raise Permanent("it answers otherwise", remedy="none")


def builds(tmp_path: Path) -> int:
    counted = tmp_path / "count"
    return len(counted.read_text()) if counted.exists() else 0


def test_an_engine_is_built_judged_and_taken_by_the_next_pod(
    manifest: Manifest, environ: dict[str, str], tmp_path: Path
) -> None:
    judged: list[Path] = []
    for _ in range(2):
        found = rebuilt(manifest, WHY, environ, lambda one: judged.append(one.file), builder="builds_builder")
        assert found.file.read_bytes().startswith(b"engine of")
        assert found.toolchain == {"compiler": "tensorrt", "version": "10.6.0", "gpu_arch": "SM90"}
    assert (builds(tmp_path), len(judged)) == (1, 1)


def test_what_was_not_found_right_is_not_kept(
    manifest: Manifest, environ: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(Permanent, match="answers otherwise"):
        rebuilt(manifest, WHY, environ, dissatisfied, builder="builds_builder")
    rebuilt(manifest, WHY, environ, satisfied, builder="builds_builder")
    assert builds(tmp_path) == 2


def test_what_was_kept_and_damaged_or_is_of_another_release_is_built_anew(
    manifest: Manifest, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rebuilt(manifest, WHY, environ, satisfied, builder="builds_builder")
    first.file.write_bytes(b"engine of somebody else")
    rebuilt(manifest, WHY, environ, satisfied, builder="builds_builder")
    assert builds(tmp_path) == 2
    monkeypatch.setattr(rebuilding, "_version", lambda: "10.7.0")
    rebuilt(manifest, WHY, environ, satisfied, builder="builds_builder")
    assert builds(tmp_path) == 3


@pytest.mark.parametrize(
    ("builder", "said"),
    [
        ("refuses_builder", "this one is SM90; none can be built here: tensorrt_bindings does not load"),
        ("crashes_builder", "this one is SM90; none can be built here: the builder was killed by SIGSEGV"),
    ],
)
def test_a_builder_that_cannot_is_a_reason_with_both_sides(
    manifest: Manifest, environ: dict[str, str], builder: str, said: str
) -> None:
    with pytest.raises(Permanent, match=said):
        rebuilt(manifest, WHY, environ, satisfied, builder=builder)


def test_without_a_source_or_where_nobody_wants_it_nothing_is_built(
    manifest: Manifest, environ: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(Permanent, match=r"^the engine of credit_risk was built for GPU SM86"):
        rebuilt(replace(manifest, source=None), WHY, environ, satisfied, builder="builds_builder")
    with pytest.raises(Permanent, match="says not to build one here"):
        rebuilt(manifest, WHY, {**environ, rebuilding.SWITCH: "0"}, satisfied, builder="builds_builder")
    assert builds(tmp_path) == 0


def test_a_folder_that_others_may_write_into_is_refused(
    manifest: Manifest, environ: dict[str, str], tmp_path: Path
) -> None:
    """TensorRT trusts the bytes of an engine."""
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(0o777)
    with pytest.raises(Permanent, match="others than this user may write"):
        rebuilt(manifest, WHY, environ, satisfied, builder="builds_builder")


def test_a_bundle_of_engines_has_their_source_and_all_of_them(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    source = store.put(
        b"onnx",
        format="onnx",
        precision="fp16",
        parent_digest=None,
        toolchain=Toolchain("onnxruntime.quantization", "1"),
    )
    served, other = (
        store.put(
            content,
            format="tensorrt",
            precision="fp16",
            parent_digest=source.digest,
            toolchain=Toolchain("tensorrt", "10.6.0", arch),
        )
        for content, arch in ((b"for one", "SM90"), (b"for the other", "SM86"))
    )
    spec = TensorSpec("input", "FP32", (-1, 4))
    contents = BundleContents(
        model=ModelRef("digits", 1),
        served=served,
        inputs=(spec,),
        outputs=(spec,),
        serving={
            "runtime": "tensorrt",
            "max_batch_size": 8,
            "max_queue_delay_ms": 2,
            "replicas": 1,
            "threads": 1,
        },
        session_config={},
        warmup={},
        report=GateReport("", ()),
        engines=(other,),
        ancestors=(source,),
    )
    manifest = read_manifest(publish(store, contents).path)
    assert [one.toolchain["gpu_arch"] for one in manifest.engines] == ["SM90", "SM86"]
    assert [one.file.read_bytes() for one in manifest.engines] == [b"for one", b"for the other"]
    assert manifest.source is not None
    assert manifest.source.file.read_bytes() == b"onnx"
