"""Answers kept: in the process (`memory`), shared by replicas (`shared`). Each belongs to one bundle, so no
version can answer for another."""
