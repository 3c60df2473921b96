"""Fuzzing: mutated captures through the whole pipe."""
