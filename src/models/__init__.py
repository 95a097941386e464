"""Models: networks, and what training one means."""
