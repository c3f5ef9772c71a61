"""Evaluation: restores a test set, measures it, and compares two arms."""
