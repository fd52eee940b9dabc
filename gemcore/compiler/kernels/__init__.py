"""Kernels of the `gem::` operations as TIR, one module an operation.

Every kernel is a template over an `InstructionSet`, works on vectors of 16 lanes that LLVM cuts to the
machine's width, and gives the same bits as the eager operation in `gemcore.models.ops`.
"""
