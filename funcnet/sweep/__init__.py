"""Sweeps: every variant of a recipe trained in as few programs as there are kinds of it."""

from funcnet.sweep.program import clear_caches as clear_caches
from funcnet.sweep.progress import Progress as Progress
from funcnet.sweep.result import Best as Best
from funcnet.sweep.result import SweepResult as SweepResult
from funcnet.sweep.result import load_result as load_result
from funcnet.sweep.run import SweepFailed as SweepFailed
from funcnet.sweep.run import SweepInterrupted as SweepInterrupted
from funcnet.sweep.run import SweepNotFinite as SweepNotFinite
from funcnet.sweep.run import SweepStopped as SweepStopped
from funcnet.sweep.run import sweep as sweep
from funcnet.sweep.search import search as search
