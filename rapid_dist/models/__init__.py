"""The networks: autoencoders, denoisers, feature extractor, and the public ones opened from an artefact."""
