"""OCSP (RFC 6960, RFC 9919): asking a CA's responder about a certificate, and keeping what it said."""
