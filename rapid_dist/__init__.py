"""Private synthetic images at scale."""
