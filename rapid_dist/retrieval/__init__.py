"""The trajectory knowledge base as pure functions: features, trajectories, shards, search, merge."""
