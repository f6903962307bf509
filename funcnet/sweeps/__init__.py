"""Sweeps: every variant of a recipe trained in as few programs as there are kinds of it.

The words, each with one meaning in the whole package:

plan        what is to be trained: variants, their rows, and which of them share a program; `plan` says what that will take
recipe      a function of hyperparameters that returns a training
variant     one setting of the hyperparameters
replicate   a run of a variant with a key of its own
fold        one of the parts that data is cut into, in turn what a run validates by; the runs of a chunk have one in common
row         one run: a variant in a replicate, on a fold; a row of the result's table
assignment  the values of a variant's hyperparameters: static ones pick a program, numbers and names are its arguments
group       the rows that share a program
size        the value of a traced number that decides a shape, such as a width; the sizes of a group are filled up to the largest
lot         rows of a group that may train in one chunk: they have the same names and fold, and where they share it one key
lane        a place in a chunk, for one row
chunk       rows that train together, in one call of a program, as many as it has lanes
cohort      a chunk on its way: its rows stand at one step
stretch     64 steps whose minibatches are drawn together, and after which the lanes are looked at
segment     the steps of one task
task        a cohort over a segment; data goes in and comes out
slot        where one chunk trains at a time: a core, a device, or a worker
worker      another process that trains chunks
evaluation  a step after which runs are measured
ledger      what was measured and decided, an entry for each row
policy      what decides which variants go on
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
