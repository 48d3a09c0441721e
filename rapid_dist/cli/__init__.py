"""The command line: parse, call one library function, print. Errors of ours become one line and exit code 2."""

from rapid_dist.cli.main import main

__all__ = ["main"]
