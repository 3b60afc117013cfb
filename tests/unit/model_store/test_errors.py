"""What a person reads of an error: one line, bounded, with the remedy for the fault that happened."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from model_store.errors import LONGEST_LINE, LONGEST_TEXT, Permanent, Retryable, bounded, first_line
from model_store.explained import explain
from tests.bundles import elementwise


def raised_by(act) -> Exception:
    with pytest.raises(Exception) as found:  # noqa: PT011 - whatever the library raises
        act()
    return found.value


def test_a_message_of_a_million_characters_is_bounded_and_the_log_has_all_of_it(caplog) -> None:
    with caplog.at_level(logging.WARNING, "slipway.errors"):
        error = Permanent("x" * 974_403, remedy="y" * 974_403)
    assert len(error.problem) == len(error.remedy) == LONGEST_TEXT
    assert error.problem.endswith(" characters more: see the log)")
    assert "x" * 974_403 in caplog.text


def test_what_is_short_enough_stays_as_it_is() -> None:
    assert bounded("all of it") == "all of it"
    assert str(Retryable("down", remedy="start it")) == "down\n  remedy: start it"


def test_the_first_line_has_no_colours_codes_or_places_in_somebodys_source() -> None:
    session = ort.InferenceSession(elementwise("Relu").SerializeToString())
    error = raised_by(lambda: session.run(None, {"x": np.zeros((3, 9), np.float32)}))
    assert first_line(error).startswith(
        "Got invalid dimensions for input: x for the following indices index: 1"
    )
    assert first_line(RuntimeError("\n\x1b[31mred\x1b[0m\nmore")) == "red"


def test_a_bare_value_comes_with_the_name_of_its_error() -> None:
    assert first_line(KeyError("scale")) == "KeyError: 'scale'"
    assert first_line(AssertionError()) == "AssertionError"
    assert len(first_line(ValueError("z" * 10_000))) == LONGEST_LINE


def a_model(*, opset: int = 18, ir: int = 9) -> onnx.ModelProto:
    model = elementwise("Relu")
    model.opset_import[0].version, model.ir_version = opset, ir
    return model


def test_an_ir_too_new_names_both_numbers_whoever_refuses_it() -> None:
    for act in (
        lambda: ort.InferenceSession(a_model(ir=60).SerializeToString()),
        lambda: onnx.checker.check_model(a_model(ir=60)),
    ):
        told = explain(raised_by(act), otherwise="")
        assert told.problem.startswith("the file has IR version 60, and onnx")
        assert told.remedy.startswith("export it for IR version 1")


def test_an_opset_too_new_names_both_numbers() -> None:
    error = raised_by(lambda: ort.InferenceSession(a_model(opset=60).SerializeToString()))
    told = explain(error, otherwise="")
    assert told.problem.startswith("the file has opset 60 of ai.onnx, and onnxruntime ")
    assert "with an opset of at most 2" in told.remedy


def test_a_locale_that_is_not_here_is_named_with_what_to_set() -> None:
    known = onnx.helper.make_node(
        "StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="tlh_QO.UTF-8"
    )
    x, y = (onnx.helper.make_tensor_value_info(name, TensorProto.STRING, ["n"]) for name in "xy")
    graph = onnx.helper.make_graph([known], "g", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    told = explain(raised_by(lambda: ort.InferenceSession(model.SerializeToString())), otherwise="")
    assert "by the locale tlh_QO.UTF-8, which is not installed" in told.problem
    assert "to C.UTF-8" in told.remedy


def test_two_gigabytes_are_said_to_be_protobufs_limit() -> None:
    big = onnx.ModelProto()
    big.graph.initializer.add(name="big", raw_data=bytes(2**31))
    assert "larger than 2 GB" in explain(raised_by(big.SerializeToString), otherwise="").problem


def test_memory_that_ran_out_is_told_as_such() -> None:
    assert "memory of this machine ran out" in str(explain(MemoryError(), otherwise=""))


def test_an_error_of_ours_keeps_its_remedy_and_an_unknown_one_gets_the_other() -> None:
    assert str(explain(Permanent("a\nb", remedy="do"), otherwise="no")) == "a (do)"
    assert str(explain(ValueError("odd"), otherwise="look")) == "odd (look)"


def test_an_operator_without_an_implementation_is_named() -> None:
    content = elementwise("Tan", TensorProto.DOUBLE).SerializeToString()
    error = raised_by(lambda: ort.InferenceSession(content))
    assert "has no implementation of Tan" in explain(error, otherwise="").problem
