"""Pods as Deployments of a Kubernetes cluster (docs/kubernetes.md).

`platform` is the port's implementation. What it asks for is made in `deployment` and `companions`, what the
cluster says of it is collected in `observation` and becomes one sentence in `diagnosis`.
"""
