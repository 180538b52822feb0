"""Work on everything that is stored, for operators: copying, checking, sealing anew, mending the index."""
