"""funcnet: layers, losses, penalties and optimizers as pure functions on JAX, and sweeps that train a thousand at once."""

import typing as _typing

from funcnet import prune as prune
from funcnet import suggest as suggest
from funcnet.activations import ACTIVATIONS as ACTIVATIONS
from funcnet.activations import check_activation as check_activation
from funcnet.data import Dataset as Dataset
from funcnet.data import Split as Split
from funcnet.data import WeightedDataset as WeightedDataset
from funcnet.data import minibatch as minibatch
from funcnet.data import one_hot as one_hot
from funcnet.data import split as split
from funcnet.data import standardize as standardize
from funcnet.evolve import binary_tournament as binary_tournament
from funcnet.evolve import perturb as perturb
from funcnet.evolve import population as population
from funcnet.evolve import truncation as truncation
from funcnet.inspection import gradient_norms as gradient_norms
from funcnet.inspection import permutation_importance as permutation_importance
from funcnet.inspection import predict as predict
from funcnet.layers import INITIALIZERS as INITIALIZERS
from funcnet.layers import Layer as Layer
from funcnet.layers import activation as activation
from funcnet.layers import apply_batch as apply_batch
from funcnet.layers import avg_pool as avg_pool
from funcnet.layers import conv as conv
from funcnet.layers import dense as dense
from funcnet.layers import drop_connect as drop_connect
from funcnet.layers import dropout as dropout
from funcnet.layers import embedding as embedding
from funcnet.layers import flatten as flatten
from funcnet.layers import layer_norm as layer_norm
from funcnet.layers import max_pool as max_pool
from funcnet.layers import mixed_precision as mixed_precision
from funcnet.layers import mlp as mlp
from funcnet.layers import out_shape as out_shape
from funcnet.layers import parallel as parallel
from funcnet.layers import recurrent as recurrent
from funcnet.layers import residual as residual
from funcnet.layers import serial as serial
from funcnet.losses import LOSSES as LOSSES
from funcnet.losses import absolute_error as absolute_error
from funcnet.losses import binary_cross_entropy as binary_cross_entropy
from funcnet.losses import cross_entropy as cross_entropy
from funcnet.losses import hinge as hinge
from funcnet.losses import huber as huber
from funcnet.losses import squared_error as squared_error
from funcnet.metrics import METRICS as METRICS
from funcnet.metrics import accuracy as accuracy
from funcnet.metrics import f1 as f1
from funcnet.metrics import mean_absolute_error as mean_absolute_error
from funcnet.metrics import mean_squared_error as mean_squared_error
from funcnet.metrics import metric as metric
from funcnet.metrics import precision as precision
from funcnet.metrics import r2 as r2
from funcnet.metrics import recall as recall
from funcnet.metrics import top_k_accuracy as top_k_accuracy
from funcnet.optimizers import OPTIMIZERS as OPTIMIZERS
from funcnet.optimizers import Optimizer as Optimizer
from funcnet.optimizers import adadelta as adadelta
from funcnet.optimizers import adagrad as adagrad
from funcnet.optimizers import adam as adam
from funcnet.optimizers import adamw as adamw
from funcnet.optimizers import apply_updates as apply_updates
from funcnet.optimizers import chain as chain
from funcnet.optimizers import clip_by_global_norm as clip_by_global_norm
from funcnet.optimizers import lion as lion
from funcnet.optimizers import momentum as momentum
from funcnet.optimizers import nadam as nadam
from funcnet.optimizers import optimizer as optimizer
from funcnet.optimizers import rmsprop as rmsprop
from funcnet.optimizers import sgd as sgd
from funcnet.penalties import PENALTIES as PENALTIES
from funcnet.penalties import l1 as l1
from funcnet.penalties import l2 as l2
from funcnet.penalties import l3 as l3
from funcnet.penalties import l4 as l4
from funcnet.penalties import lp as lp
from funcnet.penalties import penalty as penalty
from funcnet.policy import Decisions as Decisions
from funcnet.policy import Policy as Policy
from funcnet.policy import Seen as Seen
from funcnet.schedules import SCHEDULES as SCHEDULES
from funcnet.schedules import constant as constant
from funcnet.schedules import cosine_decay as cosine_decay
from funcnet.schedules import exponential_decay as exponential_decay
from funcnet.schedules import linear as linear
from funcnet.schedules import one_cycle as one_cycle
from funcnet.schedules import step_decay as step_decay
from funcnet.schedules import warmup_cosine_decay as warmup_cosine_decay
from funcnet.space import MISSING as MISSING
from funcnet.space import Space as Space
from funcnet.space import Variants as Variants
from funcnet.space import choice as choice
from funcnet.space import grid as grid
from funcnet.space import integers as integers
from funcnet.space import log_integers as log_integers
from funcnet.space import log_uniform as log_uniform
from funcnet.space import normal as normal
from funcnet.space import space as space
from funcnet.space import static as static
from funcnet.space import traced as traced
from funcnet.space import uniform as uniform
from funcnet.space import when as when
from funcnet.sweep import Best as Best
from funcnet.sweep import Evaluation as Evaluation
from funcnet.sweep import ExecutorLost as ExecutorLost
from funcnet.sweep import Plan as Plan
from funcnet.sweep import Progress as Progress
from funcnet.sweep import StoreDamaged as StoreDamaged
from funcnet.sweep import StoreInUse as StoreInUse
from funcnet.sweep import SweepFailed as SweepFailed
from funcnet.sweep import SweepInterrupted as SweepInterrupted
from funcnet.sweep import SweepNotFinite as SweepNotFinite
from funcnet.sweep import SweepResult as SweepResult
from funcnet.sweep import SweepStopped as SweepStopped
from funcnet.sweep import WorkerRefused as WorkerRefused
from funcnet.sweep import clear_caches as clear_caches
from funcnet.sweep import load_result as load_result
from funcnet.sweep import load_store as load_store
from funcnet.sweep import plan as plan
from funcnet.sweep import search as search
from funcnet.sweep import sweep as sweep
from funcnet.training import Fit as Fit
from funcnet.training import Training as Training
from funcnet.training import TrainState as TrainState
from funcnet.training import fit as fit
from funcnet.training import penalized as penalized
from funcnet.training import training as training

if _typing.TYPE_CHECKING:
    from funcnet import sklearn as sklearn
else:

    def __getattr__(name):
        """Loads funcnet.sklearn, which needs scikit-learn, where it is asked for."""
        if name == "sklearn":
            import importlib

            return importlib.import_module("funcnet.sklearn")
        raise AttributeError(f"module 'funcnet' has no attribute {name!r}")


__version__ = "0.1.0"
