"""Files of one's own: found, read safely, and kept as tensors."""
