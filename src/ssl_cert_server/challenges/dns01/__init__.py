"""dns-01 (RFC 8555 section 8.4): TXT values, set at whichever provider holds the zone."""
