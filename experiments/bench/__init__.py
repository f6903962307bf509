"""funcnet against everything else one could train the same sweep with, side by side: python -m experiments.bench"""
