"""A sweep on many machines: README.md says how, and train.py is what its commands run."""
