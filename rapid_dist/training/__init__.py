"""Training loops, public and private, over a collective that is passed in."""
