"""The accuracy gate: is the candidate as good as the original on the same labelled rows?

Non-inferiority, paired, with confidence: overall, per slice, and against the champion. See docs/gates.md.
"""

from model_store.gates.accuracy.gate import Answers, judge_accuracy
from model_store.gates.accuracy.paired import Difference, accuracy_difference, auc_difference

__all__ = ["Answers", "Difference", "accuracy_difference", "auc_difference", "judge_accuracy"]
