"""What the papers measure on a data set: one small class for each diagnostic, and what answers them all in one pass."""
