"""Networks: backbones, units, and `SPTNet`, which joins them. Tensors only, no priors or data."""
