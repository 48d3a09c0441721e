"""The stages of a run: each reads manifests, writes data, and writes its own manifest last."""
