"""One folder per paper; none imports another."""
