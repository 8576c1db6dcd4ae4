"""The prepared graph: sparse products, the rows of tensors, the graphs of a batch."""
