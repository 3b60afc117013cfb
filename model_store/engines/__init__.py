"""Engines: what runs a model file. One small protocol, one module per engine."""
