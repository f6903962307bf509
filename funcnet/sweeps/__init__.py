"""Sweeps: train many variants of a recipe at once; variants that differ only in floats share a compiled program.

The words, each with one meaning in the whole package:

plan        what a sweep trains: its variants, their rows, and which rows share a program; `plan` estimates what that takes
recipe      a function of hyperparameters that returns a training
variant     one setting of the hyperparameters
replicate   one of several runs of a variant, each with its own random key
fold        one split of the data into training and validation examples; all runs of a chunk use the same fold
row         one run: a variant in a replicate, on a fold; a row of the result's table
assignment  the values of a variant's hyperparameters, sorted: static ones pick a program, numbers and names are its arguments
program     the compiled functions that a group trains with: one each to initialize, draw, take steps and evaluate
group       the rows that share a program
size        the value of a traced number that decides a shape, such as a width; a group's states are padded to its largest size
lot         rows of a group that may train in one chunk: same names, same fold, and the same replicate if lanes share one key
lane        a position on the batch axis (vmap) of a chunk; it trains one row
chunk       rows that train together, in one call of a program, one in each lane
cohort      a chunk and its training state; all its rows are at the same step
stretch     64 steps whose minibatches are drawn together; after each, the lanes are checked for non-finite numbers
segment     the steps of one task
task        a cohort and the segment it is to train; data goes in, data comes out
slot        a place that trains one chunk at a time: a core, a device, or a worker
worker      another process that trains chunks
evaluation  a step after which runs are measured
ledger      arrays of what was measured and decided, one entry for each row
policy      the rule that decides which variants continue
"""

from funcnet.sweeps.events import Evaluation as Evaluation
from funcnet.sweeps.files import StoreDamaged as StoreDamaged
from funcnet.sweeps.files import StoreInUse as StoreInUse
from funcnet.sweeps.foreseen import Plan as Plan
from funcnet.sweeps.foresight import plan as plan
from funcnet.sweeps.program import clear_caches as clear_caches
from funcnet.sweeps.progress import Progress as Progress
from funcnet.sweeps.remote import ExecutorLost as ExecutorLost
from funcnet.sweeps.remote import WorkerRefused as WorkerRefused
from funcnet.sweeps.result import Best as Best
from funcnet.sweeps.result import SweepResult as SweepResult
from funcnet.sweeps.result import load_result as load_result
from funcnet.sweeps.run import SweepFailed as SweepFailed
from funcnet.sweeps.run import SweepInterrupted as SweepInterrupted
from funcnet.sweeps.run import SweepNotFinite as SweepNotFinite
from funcnet.sweeps.run import SweepStopped as SweepStopped
from funcnet.sweeps.run import sweep as sweep
from funcnet.sweeps.searching import search as search
from funcnet.sweeps.shown import load_store as load_store
