"""What a user is told when a release spec is wrong, and what is read when it is right."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.errors import Permanent
from model_store.release_spec import InvalidSpec, ReleaseSpec, expand, load, load_all
from model_store.release_spec.document import MAX_BYTES
from model_store.release_spec.freeze import STORED

REPOSITORY = Path(__file__).parents[3]
EXAMPLE = REPOSITORY / "dags" / "releases" / "credit_risk.yaml"

GOOD = """\
model: fraud
source:
  flavor: onnx
data:
  evaluation: data/evaluation.parquet
  calibration: data/calibration.parquet
  label: bad
gates:
  accuracy: {max_drop: 0.01}
precisions: [int8, fp32]
rollout:
  steps:
    - {weight: 10, hold_seconds: 60}
    - {weight: 100, hold_seconds: 60}
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "fraud.yaml"
    path.write_text(GOOD)
    return path


def refusal(path: Path, text: str | bytes) -> InvalidSpec:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidSpec) as refused:
        load(path)
    return refused.value


def said(path: Path, *edits: tuple[str, str]) -> str:
    """All that is said about GOOD with these replacements."""
    text = GOOD
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return refusal(path, text).problem


def test_the_example_is_a_valid_spec() -> None:
    spec = load(EXAMPLE)

    assert (spec.model, spec.source.flavor, spec.source.trusted) == ("credit_risk", "sklearn", True)
    assert [step.weight for step in spec.rollout.steps] == [5, 25, 50, 100]
    assert sum(step.hold_seconds for step in spec.rollout.steps) < 30


def test_a_good_spec_says_what_it_says_and_defaults_the_rest(spec_file: Path) -> None:
    spec = load(spec_file)

    assert spec.precisions == ("int8", "fp32")
    assert spec.gates.accuracy.max_drop == 0.01
    assert spec.serving.runtime == "onnxruntime"
    assert spec.schedule is None


def test_an_unknown_precision_is_refused_with_file_line_field_and_allowed_values(spec_file: Path) -> None:
    text = said(spec_file, ("[int8, fp32]", "[int7, fp32]"))

    assert text.startswith(f"{spec_file}:10: precisions.0: unknown value, got `int7`")
    assert "allowed: fp32, fp16, int8" in text
    assert "did you mean `int8`?" in text


def test_an_unknown_strategy_is_refused_with_the_allowed_ones(spec_file: Path) -> None:
    text = said(spec_file, ("rollout:\n", "rollout:\n  strategy: canery\n"))

    assert f"{spec_file}:12: rollout.strategy: unknown value, got `canery`" in text
    assert "allowed: canary, blue_green -> did you mean `canary`?" in text


def test_an_unknown_metric_is_refused_with_those_there_are(spec_file: Path) -> None:
    text = said(spec_file, ("  accuracy:", "  acuracy: {max_drop: 0.1}\n  accuracy:"))

    assert f"{spec_file}:9: gates.acuracy: unknown field" in text
    assert "allowed: accuracy, auc, average_precision, balanced_accuracy, calibration_error, champion" in text
    assert "did you mean `accuracy`?" in text


def test_every_mistake_of_a_file_is_told_at_once_in_the_order_of_its_lines(spec_file: Path) -> None:
    text = said(
        spec_file,
        ("model: fraud", "model: ../fraud"),
        ("flavor: onnx", "flavor: onxn"),
        ("label: bad", "label: no"),
        ("max_drop: 0.01", "max_drop: 1"),
        ("weight: 100", "weight: 90"),
    )

    lines = text.splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "3", "7", "9", "14"]
    assert "source.flavor" in lines[1]
    assert "put it in quotes" in lines[2]


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("alpha: 0.5", "alpha: must be below 0.5"),
        ("alpha: 0", "alpha: must be above 0"),
        ("max_error_rate: 1", "max_error_rate: must be below 1"),
        ("max_disagreement: 0.05", "max_disagreement: needs serving.request_log"),
        ("max_disagreement: 1", "max_disagreement: must be below 1"),
        ("max_cpu_share: 0.5", "max_cpu_share"),
    ],
)
def test_rules_that_no_judge_can_work_with_are_refused(spec_file: Path, written: str, complaint: str) -> None:
    assert complaint in said(spec_file, ("rollout:\n", f"rollout:\n  analysis: {{{written}}}\n"))


def test_answers_are_compared_where_requests_are_recorded(spec_file: Path) -> None:
    logged = "serving: {request_log: {share: 0.1}}\nrollout:\n  analysis: {max_disagreement: 0.05}\n"
    spec_file.write_text(GOOD.replace("rollout:\n", logged))
    assert load(spec_file).rollout.analysis.max_disagreement == 0.05


@pytest.mark.parametrize("name", ["../etc", "a/../b", "", ".hidden", "a b", "ä", "x" * 101, "a..b", "-x"])
def test_a_model_name_that_could_be_a_path_is_refused(spec_file: Path, name: str) -> None:
    assert "model: 1-100 of letters" in said(spec_file, ("model: fraud", f'model: "{name}"'))


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ("[{weight: 10, hold_seconds: 1}]", "the last step must have weight 100, got 10"),
        ("[]", "a canary needs steps, the last with weight 100"),
        (
            "[{weight: 50, hold_seconds: 1}, {weight: 50, hold_seconds: 1}, {weight: 100, hold_seconds: 1}]",
            "weights must rise, and 50 follows 50",
        ),
        (
            "[{weight: 50, hold_seconds: 1}, {weight: 20, hold_seconds: 1}, {weight: 100, hold_seconds: 1}]",
            "weights must rise, and 20 follows 50",
        ),
        ("[{weight: 0, hold_seconds: 1}, {weight: 100, hold_seconds: 1}]", "must be above 0"),
        ("[{weight: 101, hold_seconds: 1}]", "must be at most 100"),
        ("[{weight: 100, hold_seconds: -1}]", "must be at least 0"),
        ("[{weight: 100, hold_seconds: 9999}]", "longer than max_step_seconds 3600"),
        ("[{weight: 100, hold_seconds: .inf}]", "finite number"),
    ],
)
def test_impossible_steps_are_refused(spec_file: Path, steps: str, complaint: str) -> None:
    head = GOOD[: GOOD.index("  steps:")]

    assert complaint in refusal(spec_file, f"{head}  steps: {steps}\n").problem


def test_blue_green_takes_no_steps(spec_file: Path) -> None:
    assert "blue_green has one switch" in said(
        spec_file, ("rollout:\n", "rollout:\n  strategy: blue_green\n")
    )


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("gates: {accuracy: {max_drop: 92}}", "gates.accuracy.max_drop: must be below 0.5, got `92`"),
        ("gates: {accuracy: {max_drop: 92}}", "a share, not percent: 0.92"),
        ("gates: {accuracy: {max_drop: -0.1}}", "must be at least 0"),
        ("gates: {accuracy: {max_drop: 0.1, min: 80}}", "a share, not percent: 0.8"),
        ("gates: {accuracy: {max_drop: 0.1, confidence: 1}}", "must be below 1"),
        ("gates: {slices: {max_drop: 0.1}}", "data.slices names no column to slice by"),
        ("gates: {latency: {max_p99_ms: 2000}}", "above serving.timeout_ms 1000"),
        ("gates: {latency: {max_p99_ms: 0}}", "must be above 0"),
        ("gates: {size: {}}", "gates.size.max_mb: is missing"),
        ("gates: {signature: {may_break: 0}}", "gates.signature.may_break: must be at least 1"),
        ("gates: {signature: {may_break: true}}", "gates.signature.may_break: must be a whole number"),
        ("gates: {signature: null}", "gates.signature"),
        ("gates: {signature: {allow: 3}}", "gates.signature.allow: unknown field"),
        ("gates: {accuracy: {min: 0.5}}", "gates.accuracy: is missing max_drop"),
        ("gates: {rmse: {max_drop: 0.1}}", "gates.rmse.max_drop: rmse is an error, and lower is better"),
        ("gates: {auc: {max_increase: 0.1}}", "gates.auc.max_increase: of auc higher is better"),
        ("gates: {recall: {max_dorp: 0.1}}", "gates.recall.max_dorp: unknown field"),
        ("gates: {recall: {max_dorp: 0.1}}", "did you mean `max_drop`?"),
        ("gates: {max_p99_ms: 20}", "gates.max_p99_ms: unknown field; allowed: accuracy, auc"),
        ("gates: {champion: {recal: {max_drop: 0.1}}}", "gates.champion.recal: unknown field"),
        ("gates: {champion: {recall: {max_drop: 0.1}, min: 0.5}}", "gates.champion.min: belongs under one"),
        ("gates: {champion: {max_dorp: 0.1}}", "did you mean `max_drop`?"),
        ("gates: {custom: [{function: cost, max_drop: 0.1}]}", "write it as PATH.py:function"),
        ("task: regression\ngates: {recall: {max_drop: 0.1}}", "gates.recall: is not for a regression task"),
        ("task: multilabel", "data.label: a multilabel task has a list of columns"),
        ("task: ranking", "data.group: a ranking needs the column"),
        ("task: clustering", "task: unknown value, got `clustering`"),
        ("classes: [a, a]", "classes.1: `a` is already in the list"),
        ("gates: 5", "gates: must be `field: value` lines, got `5`"),
    ],
)
def test_impossible_limits_are_refused(spec_file: Path, written: str, complaint: str) -> None:
    assert complaint in said(spec_file, ("gates:\n  accuracy: {max_drop: 0.01}", written))


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("serving: {runtime: tensorrt}", "`tensorrt` is not among targets"),
        ("serving: {max_queue_delay_ms: 500, timeout_ms: 400}", "not below timeout_ms"),
        ("serving: {threads: 1.5}", "serving.threads: must be a whole number, got `1.5`"),
        ('serving: {threads: "2"}', "serving.threads: must be a whole number, got `2` -> without quotes"),
        ("serving: {idempotent: 1}", "serving.idempotent: must be true or false, got `1`"),
        ("targets: []", "targets:"),
        ("targets: [onnxruntime, onnxruntime]", "targets.1: `onnxruntime` is already in the list"),
        ("approval: {approvers: []}", "approval.approvers"),
        ("approval: {approvers: [ann], required: 2}", "more than the 1 approvers"),
        ("approval: {approvers: ann}", "must be a list, e.g. [a, b], got `ann`"),
        ("owner: 2026-01-01", "owner: must be text, got `2026-01-01` -> put it in quotes"),
        ("owner: 2026-13-45", "cannot be read"),
        ("1: x", "a field's name must be text"),
        ("? [a]\n: x", "a field's name must be text"),
        ("owner: !!python/object/apply:os.system [ls]", "plain values"),
    ],
)
def test_other_wrong_values_are_refused(spec_file: Path, written: str, complaint: str) -> None:
    assert complaint in refusal(spec_file, f"{GOOD}{written}\n").problem


def test_trust_is_only_ever_written_as_true(spec_file: Path) -> None:
    for written in ('"true"', "1", '"yes"'):
        assert "source.trusted" in said(spec_file, ("flavor: onnx", f"flavor: onnx\n  trusted: {written}"))


def test_metrics_are_read_by_their_names_and_a_default_is_of_classifiers_alone(spec_file: Path) -> None:
    written = "gates:\n  rmse: {max_increase: 0.02}\n  accuracy: null\n  champion: {recall: {max_drop: 0.1}}"
    spec_file.write_text(GOOD.replace("gates:\n  accuracy: {max_drop: 0.01}", written))
    gates = load(spec_file).gates

    assert list(gates.limits("regression")) == ["mae", "rmse"]
    assert list(gates.limits("binary")) == ["auc", "rmse"]
    assert gates.champion is not None
    assert gates.champion.by_metric["recall"].max_drop == 0.1
    kept = ReleaseSpec.model_validate(load(spec_file).model_dump(mode="json"))
    assert (kept, kept.gates.written) == (load(spec_file), gates.written)


def test_the_alias_that_a_release_moves_cannot_start_one(spec_file: Path) -> None:
    assert "`champion`" in said(spec_file, ("flavor: onnx", "flavor: onnx\n  alias: champion"))


def test_evaluation_rows_cannot_be_the_calibration_rows(spec_file: Path) -> None:
    assert "use another file" in said(spec_file, ("calibration.parquet", "evaluation.parquet"))


def test_the_label_cannot_be_fed_to_the_model(spec_file: Path) -> None:
    inputs = "label: bad\n  inputs: {x: [age, bad]}"

    assert "data.inputs.x: feeds the label `bad` to the model" in said(spec_file, ("label: bad", inputs))


@pytest.mark.parametrize("schedule", ["0 3 * * *", "@daily", "*/5 8-18 * * mon-fri", "0 3 * * 1#1"])
def test_schedules_that_airflow_takes_are_taken(spec_file: Path, schedule: str) -> None:
    spec_file.write_text(f'{GOOD}schedule: "{schedule}"\n')

    assert load(spec_file).schedule == schedule


@pytest.mark.parametrize(
    "schedule", ["61 * * * *", "daily", "@reboot", "* * * *", "* * * * * *", "0 0 30 2 *", "", "H 3 * * *"]
)
def test_schedules_that_never_come_or_are_none_are_refused(spec_file: Path, schedule: str) -> None:
    text = refusal(spec_file, f'{GOOD}schedule: "{schedule}"\n').problem

    assert f"{spec_file}:15: schedule:" in text
    assert "@daily" in text


def test_a_field_written_twice_is_refused_with_both_lines(spec_file: Path) -> None:
    text = refusal(spec_file, f"{GOOD}owner: a\nowner: b\n").problem

    assert text == f"{spec_file}:16: owner: is already set on line 15 -> keep one of the two"


def test_a_tab_is_named_as_what_it_is(spec_file: Path) -> None:
    text = said(spec_file, ("  flavor: onnx", "\tflavor: onnx"))

    assert text == f"{spec_file}:3: a tab indents this line -> YAML wants spaces: two for each level"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"- a\n- b\n", "this is a list"),
        (b"just text\n", "this is a single value"),
        (b"model: [a\n", "not YAML"),
        (b"model: a\n---\nmodel: b\n", "not YAML: but found another document"),
        (b"model: \xff\n", "byte 0xff is not UTF-8"),
        (b"a" * (MAX_BYTES + 1), "larger than 256 KiB"),
        (b"a: &a [*a]\n", "20 levels"),
        (b"a: " + b"[" * 120_000 + b"]" * 120_000, "more than 20 levels"),
        (b"- " * 120_000, "more than 20 levels"),
    ],
)
def test_a_file_that_is_no_spec_is_refused(spec_file: Path, content: bytes, complaint: str) -> None:
    assert complaint in refusal(spec_file, content).problem


def test_a_few_lines_that_spell_out_billions_of_values_are_refused(spec_file: Path) -> None:
    names = "abcdefgh"
    lines = [f"{names[0]}: &{names[0]} [{', '.join('x' * 9)}]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise(names)]

    assert "more than 20000 values" in refusal(spec_file, "\n".join(lines)).problem


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InvalidSpec, match="cannot be read"):
            load(path)


def test_a_refusal_is_permanent_and_says_how_to_check_again(spec_file: Path) -> None:
    refused = refusal(spec_file, "model: a\n")

    assert isinstance(refused, Permanent)
    assert f"./slipway validate {spec_file}" in refused.remedy
    assert {complaint.field for complaint in refused.complaints} == {"source", "data", "rollout"}


def test_one_bad_spec_never_hides_the_good_ones(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: [\n")
    (tmp_path / "b.yaml").write_text(GOOD)
    (tmp_path / "c.yml").write_text(GOOD.replace("fraud", "churn"))
    (tmp_path / "d.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "e.yaml").mkdir()
    (tmp_path / "notes.txt").write_text("no spec")
    (tmp_path / ".hidden.yaml").write_text("no spec")

    specs, problems = load_all(tmp_path)

    assert [spec.model for spec in specs] == ["churn", "fraud"]
    assert [problem.path.name for problem in problems] == ["a.yaml", "d.yaml", "e.yaml"]


def test_of_two_files_for_one_model_the_one_named_after_it_counts(tmp_path: Path) -> None:
    (tmp_path / "a_copy.yaml").write_text(GOOD + "owner: copy\n")
    (tmp_path / "fraud.yaml").write_text(GOOD + "owner: right\n")

    specs, problems = load_all(tmp_path)

    assert [spec.owner for spec in specs] == ["right"]
    assert [problem.problem for problem in problems] == [
        f"{tmp_path}/a_copy.yaml:1: model: fraud.yaml already releases this model, got `fraud`"
        " -> keep one file per model"
    ]


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="is not a folder"):
        load_all(tmp_path / "nowhere")


def test_three_hundred_specs_load_in_two_seconds(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    for number in range(300):
        (tmp_path / f"m{number}.yaml").write_text(text.replace("model: credit_risk", f"model: m{number}"))

    started = time.process_time()
    specs, problems = load_all(tmp_path)

    assert (len(specs), problems) == (300, [])
    assert time.process_time() - started < 2


def test_reading_specs_imports_nothing_heavy() -> None:
    code = (
        "import sys, pathlib, model_store.release_spec as s; s.load(pathlib.Path(sys.argv[1]));"
        "print(sorted({'mlflow', 'pandas', 'numpy', 'airflow', 'great_expectations'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE)], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )

    assert run.stdout.strip() == "[]"


def test_the_digest_is_of_what_a_spec_says_not_of_how_it_is_written(spec_file: Path) -> None:
    first = load(spec_file).digest
    spec_file.write_text("# a comment\nprefer: latency\n" + GOOD)
    same = load(spec_file).digest
    spec_file.write_text(GOOD.replace("0.01", "0.02"))

    assert first == same
    assert first.startswith("sha256:")
    assert load(spec_file).digest != first


def test_paths_start_at_the_repository_or_the_home(tmp_path: Path) -> None:
    home, repository = tmp_path / "home", tmp_path / "repository"

    assert expand("data/e.csv", home=home, repository=repository) == repository / "data/e.csv"
    assert expand("${SLIPWAY_HOME}/e.csv", home=home, repository=repository) == home / "e.csv"
    assert expand("$SLIPWAY_HOME/e.csv", home=home, repository=repository) == home / "e.csv"
    assert expand("/data/e.csv", home=home, repository=repository) == Path("/data/e.csv")
    assert expand("data/e.csv", home=home) == REPOSITORY / "data/e.csv"


@pytest.mark.parametrize("written", ["${HOME}/e.csv", "$e.csv", "${SLIPWAY_HOME/e.csv"])
def test_other_variables_in_paths_are_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(Permanent, match="names a variable that specs do not have"):
        expand(written, home=tmp_path)


def test_the_command_checks_files_and_prints_the_schema(spec_file: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "model_store.release_spec", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)

    good, schema = run(str(spec_file)), run("--json-schema")
    spec_file.write_text("model: a\n")
    bad = run(str(spec_file), str(EXAMPLE))

    assert (good.returncode, good.stdout) == (0, f"{spec_file}: releases fraud\n")
    assert "gates" in json.loads(schema.stdout)["properties"]
    assert (bad.returncode, "credit_risk" in bad.stdout, "is missing" in bad.stderr) == (1, True, True)
    assert run().returncode == 2


def fields(schema: dict[str, Any]) -> set[str]:
    sections = [schema, *schema["$defs"].values()]
    return {name for section in sections for name in section["properties"]}


def test_every_field_is_in_the_documentation() -> None:
    text = (REPOSITORY / "docs" / "specs.md").read_text()

    missing = {name for name in fields(ReleaseSpec.model_json_schema()) if f"`{name}`" not in text}
    assert not missing


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(ReleaseSpec.model_fields)) | st.text(max_size=5), values))
def test_whatever_a_file_holds_the_answer_is_a_spec_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("specs") / "any.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    with suppress(InvalidSpec):
        load(path)


def test_data_that_lies_beside_its_spec_is_found_there_and_other_data_where_it_was(
    tmp_path: Path, spec_file: Path
) -> None:
    elsewhere = load(spec_file).data
    folder = tmp_path / "a $ folder"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "evaluation.parquet").touch()
    data = load(spec_file.rename(folder / "fraud.yaml")).data

    assert expand(data.evaluation, home=tmp_path) == folder / "data" / "evaluation.parquet"
    assert data.calibration == elsewhere.calibration == "data/calibration.parquet"


def test_a_spec_that_was_kept_as_json_is_to_the_last_type_the_one_that_was_read(tmp_path: Path) -> None:
    """A bundle's id is made of its values: 500 and 500.0 would be two bundles."""
    for text in (GOOD, EXAMPLE.read_text()):
        path = tmp_path / "spec.yaml"
        path.write_text(text)
        read = load(path)
        written = json.dumps(read.model_dump(mode="json"))
        assert repr(ReleaseSpec.model_validate(json.loads(written), context=STORED)) == repr(read)


def test_a_place_where_nothing_can_be_built_is_refused_in_one_sentence(spec_file: Path) -> None:
    told = refusal(spec_file, GOOD + "build:\n  place: moon\n").complaints
    assert len(told) == 1
    assert "nothing is built at `moon` here; there is: local, kubernetes" in str(told[0])
    spec_file.write_text(GOOD + "build:\n  place: local\n")
    assert load(spec_file).build.place == load(spec_file).model_copy().build.place == "local"


def test_stages_in_a_cluster_are_described_by_stage_over_what_all_of_them_need(spec_file: Path) -> None:
    spec_file.write_text(
        GOOD
        + """\
build:
  place: kubernetes
  kubernetes:
    image: registry.example/slipway-stage:1
    resources: {limits: {memory: 2Gi}}
    stages:
      gate: {resources: {limits: {nvidia.com/gpu: 1}}, node_selector: {gpu: a100}}
"""
    )
    said = load(spec_file).build.kubernetes
    assert said is not None
    gate, export = said.of("gate"), said.of("export")
    assert (gate.image, gate.node_selector) == ("registry.example/slipway-stage:1", {"gpu": "a100"})
    assert gate.resources is not None
    assert gate.resources.limits == {"memory": "2Gi", "nvidia.com/gpu": 1}
    assert (export.node_selector, export.resources) == (None, said.resources)


def test_a_section_on_the_cluster_is_refused_where_nothing_is_built_there(spec_file: Path) -> None:
    told = refusal(spec_file, GOOD + "build:\n  kubernetes: {image: a}\n").complaints
    assert "set `place: kubernetes`" in str(told[0])
