"""Model files: each is validated by our own code before any of its numbers is trusted."""
