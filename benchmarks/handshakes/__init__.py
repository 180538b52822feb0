"""Full TLS handshakes through nginx: with a static certificate, and with the plugin."""
