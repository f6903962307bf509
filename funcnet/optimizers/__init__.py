"""Optimizers: pure `init` and `update`, whose updates are added to the parameters.

A learning rate is a number, a traced scalar or a schedule. The signature is that of optax's gradient transformations:
funcnet's optimizers work in code written for those, and those work in funcnet.

protocol    the type `Optimizer`, and checks of its arguments
freezing    training some leaves and freezing the others
parts       what optimizers are composed of, and the arithmetic of averages
moments     transformations by averages of gradients and of their squares: `scale_by_adam`, ...
steps       transformations that turn directions into steps: velocity, weight decay, ratios of norms, the learning rate
rules       the named optimizers, each composed of parts
clipping    scaling gradients down before an optimizer sees them
combining   several optimizers as one: `chain`, `combine`
names       optimizers by name, which may be traced
"""

from funcnet.optimizers.clipping import adaptive_clip as adaptive_clip
from funcnet.optimizers.clipping import clip_by_global_norm as clip_by_global_norm
from funcnet.optimizers.clipping import clip_by_value as clip_by_value
from funcnet.optimizers.combining import chain as chain
from funcnet.optimizers.combining import combine as combine
from funcnet.optimizers.moments import AdadeltaState as AdadeltaState
from funcnet.optimizers.moments import AdafactorState as AdafactorState
from funcnet.optimizers.moments import AdagradState as AdagradState
from funcnet.optimizers.moments import AdamaxState as AdamaxState
from funcnet.optimizers.moments import AdamState as AdamState
from funcnet.optimizers.moments import AmsgradState as AmsgradState
from funcnet.optimizers.moments import Factors as Factors
from funcnet.optimizers.moments import LionState as LionState
from funcnet.optimizers.moments import NadamState as NadamState
from funcnet.optimizers.moments import RmspropState as RmspropState
from funcnet.optimizers.moments import scale_by_adadelta as scale_by_adadelta
from funcnet.optimizers.moments import scale_by_adam as scale_by_adam
from funcnet.optimizers.moments import scale_by_adamax as scale_by_adamax
from funcnet.optimizers.moments import scale_by_amsgrad as scale_by_amsgrad
from funcnet.optimizers.moments import scale_by_belief as scale_by_belief
from funcnet.optimizers.moments import scale_by_factored_rms as scale_by_factored_rms
from funcnet.optimizers.moments import scale_by_lion as scale_by_lion
from funcnet.optimizers.moments import scale_by_nadam as scale_by_nadam
from funcnet.optimizers.moments import scale_by_radam as scale_by_radam
from funcnet.optimizers.moments import scale_by_rms as scale_by_rms
from funcnet.optimizers.moments import scale_by_rss as scale_by_rss
from funcnet.optimizers.names import OPTIMIZERS as OPTIMIZERS
from funcnet.optimizers.names import optimizer as optimizer
from funcnet.optimizers.parts import ScheduledState as ScheduledState
from funcnet.optimizers.protocol import Optimizer as Optimizer
from funcnet.optimizers.protocol import apply_updates as apply_updates
from funcnet.optimizers.protocol import taken as taken
from funcnet.optimizers.rules import adabelief as adabelief
from funcnet.optimizers.rules import adadelta as adadelta
from funcnet.optimizers.rules import adafactor as adafactor
from funcnet.optimizers.rules import adagrad as adagrad
from funcnet.optimizers.rules import adam as adam
from funcnet.optimizers.rules import adamax as adamax
from funcnet.optimizers.rules import adamw as adamw
from funcnet.optimizers.rules import amsgrad as amsgrad
from funcnet.optimizers.rules import lamb as lamb
from funcnet.optimizers.rules import lars as lars
from funcnet.optimizers.rules import lion as lion
from funcnet.optimizers.rules import momentum as momentum
from funcnet.optimizers.rules import nadam as nadam
from funcnet.optimizers.rules import radam as radam
from funcnet.optimizers.rules import rmsprop as rmsprop
from funcnet.optimizers.rules import sgd as sgd
from funcnet.optimizers.steps import MomentumState as MomentumState
from funcnet.optimizers.steps import add_decayed_weights as add_decayed_weights
from funcnet.optimizers.steps import clip_by_block_rms as clip_by_block_rms
from funcnet.optimizers.steps import scale_by_learning_rate as scale_by_learning_rate
from funcnet.optimizers.steps import scale_by_param_block_rms as scale_by_param_block_rms
from funcnet.optimizers.steps import scale_by_trust_ratio as scale_by_trust_ratio
from funcnet.optimizers.steps import trace as trace
