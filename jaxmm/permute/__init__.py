"""Permutation tests of many responses at once: which rearrangements, which statistic, over which neighbourhood."""
