"""Masks of an image: overlapping regions as atoms, a prior as palette and index map, a batch of priors as tensors."""
