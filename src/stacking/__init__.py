"""Many jobs trained as one model: their networks side by side, every step one batched operation."""
