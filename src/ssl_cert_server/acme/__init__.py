"""The ACME protocol (RFC 8555), asynchronous, with an injectable clock and transport."""
