"""`python -m benchmarks.serving`: the pod beside other Python model servers, in one run."""
