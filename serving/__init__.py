"""Everything after the bundle: pods, traffic, verdicts, rollback."""
