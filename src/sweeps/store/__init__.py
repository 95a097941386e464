"""What a sweep's folder holds; only files are read here."""
