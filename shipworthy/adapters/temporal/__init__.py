"""Temporal: a run as a workflow whose activities are its steps."""
