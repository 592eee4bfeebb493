"""Values only: what the framework talks about. Nothing here decides or waits."""
