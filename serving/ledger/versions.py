"""Which forms of the tables this Slipway can read, oldest first: one for each migration."""

VERSIONS = ("0001", "0002")
NEWEST = VERSIONS[-1]
