"""Measuring what private training does: bounds on epsilon, moments of noise and inclusion, replays of steps."""
