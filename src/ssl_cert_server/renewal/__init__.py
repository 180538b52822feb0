"""When a certificate is renewed, and the worker that does it."""
