"""Long-term memory: what is kept, how it is found, and what becomes of it."""
