"""One server that holds all TLS certificates of a fleet."""

__version__ = "0.1.0"
