"""Questions to the DNS: to a resolver, or to one authoritative server."""
