"""What a sweep would run and take, without running it."""
