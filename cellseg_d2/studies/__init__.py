"""Comparisons of ways to train: same data, same seeds, same number of iterations, and one difference."""
