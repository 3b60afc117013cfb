"""Who decides which arm a request meets."""
