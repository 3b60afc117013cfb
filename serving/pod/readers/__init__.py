"""Processes that read requests off their connections for the pod's own, which computes (decision 161)."""
