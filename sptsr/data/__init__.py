"""Data: LQ and GT images with priors, loaders, and the making of sets."""
