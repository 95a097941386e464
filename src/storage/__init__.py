"""Reading and writing the files of runs and sweeps."""
