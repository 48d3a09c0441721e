"""Runs of the real private trainer on made-up records, watched from outside: what `rapid-dist audit` looks at."""
