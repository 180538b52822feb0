"""Keys, names and X.509: cryptography's types in, plain values out."""
