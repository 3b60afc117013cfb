"""Real traffic for benchmarks: small upstreams with faults, an open-loop load, Envoy and the controller."""
