"""Where a certificate comes from: an ACME CA, the local CA, self-signing, or an operator's hand."""
