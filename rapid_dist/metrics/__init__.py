"""Numbers for operators: declared once with a privacy class, exported by an allow-list."""
