"""Studies on Ray Tune: the driver's desk, and the trials that ask it."""
