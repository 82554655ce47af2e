"""A second GGUF drafts: what it says of a node is one more source of the calibrated predictor."""
