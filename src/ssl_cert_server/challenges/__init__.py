"""How control over a name is proven to a CA."""
