"""GEM and its peers on the same weights, side by side: what `benchmarks/peers.py` is made of.

| module | what is in it |
| --- | --- |
| `cli` | the command line |
| `systems` | which systems there are, and where each one's engine is |
| `engines/` | one module for each peer: how it is prepared, loaded and run at its best |
| `source` | GEM's model, made into what the peers read |
| `worker`, `process` | a measured process, seen from inside and from outside |
| `compare` | what is measured, in which order |
| `likelihood` | windows of a text and log-likelihoods, the same for everyone |
| `report` | medians, ratios, the tables and the JSON |

Workers run in different virtual environments, so this package needs only Python, attrs and NumPy
until an engine is opened.
"""
