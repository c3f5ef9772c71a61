"""Sources: each makes priors of images and registers itself in `SOURCE_REGISTRY`."""
