"""A/B tests of recipes: assignment, exposures and outcomes, decisions."""
