"""The audit log's rules: entries made from events, their chain, its keys, its tree and its checkpoints."""
