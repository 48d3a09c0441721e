"""Ray: the session, placement, maps over parts, groups of workers and actors. It holds no formula."""
