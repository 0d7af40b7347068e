"""Training: one loop for every task and architecture, exact to resume."""
