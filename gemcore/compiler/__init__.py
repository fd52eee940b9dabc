"""From the torch decoder to machine code: torch.export, Relax, TVM. Nothing else in GEM compiles.

`export` traces the decoder, `fusion` joins neighbouring operations, `lower` gives each `gem::` operation
its kernel and builds one library, and `kernels` holds the kernels themselves.
"""
