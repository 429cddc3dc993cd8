"""Scores of models on public data, whatever the workload."""
