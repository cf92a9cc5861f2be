"""Bifurcated Generative Flow Networks (Li, Liu, Liu, Cai, Pan; 2024)."""
