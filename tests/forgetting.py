"""What `funcnet.clear_caches` does to sweeps, without what it does to JAX, so that the tests that follow don't begin from nothing."""

from funcnet.sweeps import program


def forget_programs() -> None:
    """A sweep compiles its programs again, or takes them from the disk, as the first of its process does."""
    program._programs.clear()
    program._executables.clear()
