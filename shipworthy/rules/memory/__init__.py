"""How what is remembered is found: words, vectors, and the index of one partition. Imported lazily."""
