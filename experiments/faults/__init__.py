"""Breaks stored sweeps in every way there is, and looks whether each ends as if nothing had happened."""
