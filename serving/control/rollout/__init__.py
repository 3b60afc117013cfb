"""Rollouts: plan, decide (pure), apply, journal, advance. Read `advance` first."""
