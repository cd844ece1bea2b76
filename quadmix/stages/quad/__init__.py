"""Quad as a stage: which clusters help the targets, found by influence on a sample and a bandit over clusters."""
