"""Files of published data sets: downloaded once, verified, and read without running code from them."""
