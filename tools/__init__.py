"""What runs papers and shows results; knows a paper only through its files."""
