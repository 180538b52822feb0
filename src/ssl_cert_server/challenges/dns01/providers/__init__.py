"""The DNS providers that dns-01 knows: what changes a zone, and which options it takes."""
