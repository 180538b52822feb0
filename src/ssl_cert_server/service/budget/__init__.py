"""What may be ordered now, so that no CA's limit, nor one of our own, is ever overrun."""
