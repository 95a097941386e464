"""Lightning's loggers, adapted to this project: they receive a run's metrics, settings and figures."""
