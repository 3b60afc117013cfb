"""What Airflow's API server serves under /slipway: the page, the REST API, and the doors for events."""
