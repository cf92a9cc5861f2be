"""Small utilities that several papers share; imports libraries only."""
