"""From samples to batches: how they are stored, split, gathered and kept on a device."""
