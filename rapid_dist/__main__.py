"""`python -m rapid_dist` is the same as `rapid-dist`."""

from rapid_dist.cli import main

main(prog_name="rapid-dist")
