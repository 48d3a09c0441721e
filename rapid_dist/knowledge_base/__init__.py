"""The knowledge base: trajectories of public images, the index over their features, and search."""
