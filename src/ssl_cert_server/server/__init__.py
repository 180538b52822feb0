"""From a configuration to a running process."""
