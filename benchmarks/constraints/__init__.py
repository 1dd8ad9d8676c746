"""What a constraint costs: a step, a mask, a compilation; and 1,000 texts of every kind."""
