"""The wire protocol over HTTP."""
