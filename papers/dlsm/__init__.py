"""Denoising likelihood score matching for conditional score-based data generation."""
