"""Tables of a user's own: read columns from a file, encode them as numbers, find the task from the target."""
