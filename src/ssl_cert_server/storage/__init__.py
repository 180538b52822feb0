"""Where certificates and state are kept. The contract is in ``base``."""
