"""RL-CFR: learned action abstraction for CFR."""
