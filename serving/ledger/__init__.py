"""The only place of state: what is so, what happened, who may write."""
