"""What blocks a release: accuracy, data, latency, size and signature, and which candidate is chosen."""
