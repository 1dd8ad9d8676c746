"""The lab: a closed world, a corpus about it, and the small models trained on it."""
