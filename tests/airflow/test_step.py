"""What a step tells Airflow of itself."""

from __future__ import annotations

from typing import Any

from airflow.models.taskinstance import TaskInstance
from slipway_airflow.step import LABEL, LONGEST_LABEL, label


def test_words_of_any_length_name_a_mapped_instance() -> None:
    context: Any = {}
    label(context, "fp32: passed")
    assert context[LABEL] == "fp32: passed"
    label(context, f"int8: missed {'accuracy ' * 100}")
    assert context[LABEL].startswith("int8: missed accuracy")
    assert context[LABEL].endswith("…")
    # PostgreSQL refuses what is longer, and Airflow then fails the task.
    assert len(context[LABEL]) == TaskInstance.__table__.c.rendered_map_index.type.length == LONGEST_LABEL
