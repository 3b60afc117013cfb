"""What a pod serves: its format, who signed it, and forgetting what nothing needs."""
