"""Processes that are kept alive on this machine: what the local stack and the local platform stand on."""
