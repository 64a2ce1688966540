"""Import of checkpoints of the reference, the code published with arXiv 2605.13897."""
