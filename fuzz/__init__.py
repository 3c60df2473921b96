"""Fuzzing: Hypothesis strategies from the schemas, and targets."""
