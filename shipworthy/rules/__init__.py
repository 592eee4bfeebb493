"""Pure decisions: no async, no clock, no I/O, no randomness."""
