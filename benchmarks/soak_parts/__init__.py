"""Ways to wear a server out, one file each; `benchmarks.soak` runs them by name."""
