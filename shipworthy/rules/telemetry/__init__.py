"""What a sitting's events say as spans and measurements: names, and the fold that makes them. Knows no vendor."""
