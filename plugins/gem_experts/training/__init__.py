"""Training: experts of a domain from benchmark data, with or without preserving general skill."""
