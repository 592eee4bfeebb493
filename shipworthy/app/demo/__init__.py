"""`shipworthy demo`: a small support desk, its processes killed at the worst moments, and every claim checked."""
