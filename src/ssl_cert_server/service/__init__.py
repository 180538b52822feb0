"""From a name to an answer: memory, then storage, then issuance."""
