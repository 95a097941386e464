"""Where a run's metrics, settings and pictures go: Lightning's loggers, as this project uses them."""
