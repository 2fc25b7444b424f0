"""Comparisons of two or three ways to train: same data, same seeds, same iterations, one thing different."""
