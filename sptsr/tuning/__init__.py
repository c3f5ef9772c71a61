"""Tuning: the step, the model that BasicSR knows, states, and the pipelines."""
