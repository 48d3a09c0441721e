"""Studies: what is searched, what it costs, and what came out, without a cluster."""
