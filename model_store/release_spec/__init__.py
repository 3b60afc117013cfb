"""The release spec: the one YAML file a user edits per model, and nothing they may not say in it.

`load` and `load_all` turn every complaint into file, line, field, allowed values and remedy.
"""

from model_store.release_spec.before_traffic import Column, Data, Source
from model_store.release_spec.document import Complaint, InvalidSpec
from model_store.release_spec.freeze import STORED, Freeze
from model_store.release_spec.gates import (
    USUAL,
    ChampionMargin,
    CustomGate,
    Gates,
    LatencyLimit,
    Margin,
    MarginByMetric,
    SizeLimit,
    SliceMargin,
)
from model_store.release_spec.in_traffic import Analysis, Approval, Rollout, Serving, Step
from model_store.release_spec.load import Loaded, expand, load, load_all
from model_store.release_spec.notify import Notify
from model_store.release_spec.release import MODEL_NAME, Classes, Outputs, ReleaseSpec, Word, words_of
from model_store.release_spec.section import Section

__all__ = [
    "MODEL_NAME",
    "STORED",
    "USUAL",
    "Analysis",
    "Approval",
    "ChampionMargin",
    "Classes",
    "Column",
    "Complaint",
    "CustomGate",
    "Data",
    "Freeze",
    "Gates",
    "InvalidSpec",
    "LatencyLimit",
    "Loaded",
    "Margin",
    "MarginByMetric",
    "Notify",
    "Outputs",
    "ReleaseSpec",
    "Rollout",
    "Section",
    "Serving",
    "SizeLimit",
    "SliceMargin",
    "Source",
    "Step",
    "Word",
    "expand",
    "load",
    "load_all",
    "words_of",
]
