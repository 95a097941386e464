"""Using a finished run: predictions for new inputs."""
