"""Small protocols, one to a file: what the engine needs of the outside."""
