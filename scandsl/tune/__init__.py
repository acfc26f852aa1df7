"""Measures launches on a machine: what `scandsl tune` does."""
