"""Months of a large fleet in minutes: the real planning against a CA that counts for itself."""
