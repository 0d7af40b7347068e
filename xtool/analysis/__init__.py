"""Analysis: what weights and activations look like, and how alike those of two models are."""
