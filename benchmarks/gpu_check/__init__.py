"""Compares a machine's GPUs with its CPU: models, steps, resume, several processes and prediction."""
