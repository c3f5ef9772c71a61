"""Priors: what a source sees in the LQ image, stored and expanded to masks."""
