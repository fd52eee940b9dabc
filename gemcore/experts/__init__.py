"""Experts: low-rank deltas on a base model's weights, each in a folder with a card, and sets of them."""
