"""Exporting a finished run as one file that needs none of this project, with its preprocessing inside."""
