"""One module for each family of systems.

Each has `prepare(model, options)`, which makes what is slow to make, keeps it under `model.work` and
may return where it is; and `load(request)`, which is told that and returns an `Engine`. Both raise
ImportError where the system is not installed.
"""
