"""Surgery: grow and slice models by their axes, and prove on the written file what was promised."""
