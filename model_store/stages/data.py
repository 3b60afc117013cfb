"""Stage 2: are these the rows we think they are?"""

from __future__ import annotations

import numpy as np

from model_store.build import BuildContext, Exported, Json
from model_store.errors import Permanent
from model_store.stages.inputs import calibration_rows, evaluation_rows


class Leak(Permanent):
    """Calibration rows are among the evaluation rows."""


def check(ctx: BuildContext, exported: Exported) -> Json:
    """See `model_store.build.check_data_stage`."""
    evaluation, calibration = evaluation_rows(ctx, exported), calibration_rows(ctx, exported)
    shared = int(np.isin(calibration.row_hashes, evaluation.row_hashes).sum())
    if shared:
        raise Leak(
            f"{shared} of {len(calibration)} calibration rows are also in {evaluation.path}",
            remedy="draw calibration rows from the training data",
        )
    return {
        "evaluation": evaluation.digest,
        "calibration": calibration.digest,
        "evaluation_rows": len(evaluation),
        "calibration_rows": len(calibration),
    }
