"""Studies: what a trial may cost, Ray Tune around the trials, and what comes of them."""
