"""What it costs to hold very many certificates: start, memory, look-ups, renewals, idling; on each backend."""
