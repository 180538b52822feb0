"""The YAML configuration: its schema, and how it is loaded."""
