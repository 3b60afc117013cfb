"""Any number of Envoys, told over gRPC: aggregated discovery (ADS), each time the state of the world.

`messages` makes Envoy's messages of the files' JSON, `state` is all that is to be told, `records` reads it
from the home, `changes` tells when that changes, `stream` is what one Envoy knows and is owed (pure),
`server` speaks gRPC, `status` and `proxies_file` write down who has acknowledged what. `source` is the
delivery's face to everybody else.
"""
