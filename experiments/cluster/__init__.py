"""A sweep on many machines: README.md explains it, and its commands run train.py."""
