"""A checklist of what a reader needs to reproduce the results in a folder, filled in as far as the folder shows."""
