"""What the industry watches services with: Prometheus, Alertmanager, Grafana. docs/monitoring.md.

`python -m serving.monitoring` writes their configuration for one installation.
"""
