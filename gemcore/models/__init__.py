"""The decoder, written once in torch, and what describes a model before it is built."""
