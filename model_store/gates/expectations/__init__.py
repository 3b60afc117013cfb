"""Great Expectations over the rows and over the gates' numbers, with Data Docs that need no network.

Importing this is cheap; the first call imports Great Expectations (4 to 8 s of CPU on 2 cores), so call it
once per task with everything there is, never once per candidate.
"""

from model_store.gates.expectations.data import DataReport, check_data
from model_store.gates.expectations.gates import GateDocs, validate_checks

__all__ = ["DataReport", "GateDocs", "check_data", "validate_checks"]
