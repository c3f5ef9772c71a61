"""Models: what trains and evaluates a network."""
