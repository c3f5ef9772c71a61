"""Restoring images: padding and tiling of image and masks together."""
