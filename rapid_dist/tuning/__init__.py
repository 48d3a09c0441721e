"""Searching settings under one fixed epsilon: proposals, what they cost, scores, results. Pure; Ray Tune drives it."""
