"""Workloads: what can be trained, behind one small protocol."""
