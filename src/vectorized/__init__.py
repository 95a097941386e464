"""Many jobs trained as one model."""
