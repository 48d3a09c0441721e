"""From noise to images: the public run, the jump through the knowledge base, the private run. Post-processing only."""
