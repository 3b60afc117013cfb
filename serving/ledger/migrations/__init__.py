"""How the tables became what they are. A new version: a file in `versions`, its name in
`serving.ledger.versions`, and a test from the version before (tests/unit/serving/ledger/test_migrations.py).
"""
