"""Checks of the guarantee from outside: source files, replays, moments, canaries."""
