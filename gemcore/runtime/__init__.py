"""What a compiled model needs to run: TVM's runtime, the weights, the cache. No torch, no compiler."""
