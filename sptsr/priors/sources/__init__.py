"""What makes a prior; each source registers itself in `SOURCE_REGISTRY`."""
