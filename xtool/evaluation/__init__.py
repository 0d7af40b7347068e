"""Evaluation: whole splits, every number with an interval."""
