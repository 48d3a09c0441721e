"""Measurements a user can repeat: each command measures itself beside its peers in one run."""
