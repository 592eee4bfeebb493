"""Values only: what the framework talks about. Nothing here decides, waits or reads a clock."""
