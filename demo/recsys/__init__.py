"""Recommendation: will this person like this film? DeepFM on MovieLens 100K."""
