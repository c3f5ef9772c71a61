"""Backbones of our own, with the state-dict keys of their official checkpoints."""
