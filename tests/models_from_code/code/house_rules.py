"""What is decided, and how sure: text, times, truth and gaps, in a table."""

import pandas as pd


def decided(rows):
    grown_up = rows["born"] < pd.Timestamp("2000-01-01")
    lives_far = rows["city"].fillna("unknown").isin(["Ulm", "unknown"])
    score = 0.3 + 0.2 * grown_up + 0.3 * lives_far + 0.1 * rows["is_member"] + 0.05 * rows["debt"].fillna(0)
    return pd.DataFrame(
        {"approved": (score > 0.5).map({True: "yes", False: "no"}), "score": score.clip(0, 1)}
    )
