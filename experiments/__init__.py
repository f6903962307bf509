"""Experiments on real data, with funcnet's public names only."""
