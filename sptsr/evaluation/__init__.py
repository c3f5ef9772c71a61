"""Evaluation: a test set through a network, metrics, and how sure they are."""
