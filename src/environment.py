"""Environment variables that the processes of a sweep tell each other by."""

SHARE_OF_CORES = "THUNDERHEAD_CORES"  # the CPU cores of a process that others work beside
