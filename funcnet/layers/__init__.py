"""Layers: pure functions `init` and `apply` over parameter pytrees."""

from funcnet.layers.combinators import activation as activation
from funcnet.layers.combinators import mlp as mlp
from funcnet.layers.combinators import parallel as parallel
from funcnet.layers.combinators import residual as residual
from funcnet.layers.combinators import serial as serial
from funcnet.layers.conv import avg_pool as avg_pool
from funcnet.layers.conv import conv as conv
from funcnet.layers.conv import flatten as flatten
from funcnet.layers.conv import max_pool as max_pool
from funcnet.layers.dense import dense as dense
from funcnet.layers.dense import embedding as embedding
from funcnet.layers.dropout import drop_connect as drop_connect
from funcnet.layers.dropout import dropout as dropout
from funcnet.layers.layer import INITIALIZERS as INITIALIZERS
from funcnet.layers.layer import Layer as Layer
from funcnet.layers.layer import apply_batch as apply_batch
from funcnet.layers.layer import check_symbols as check_symbols
from funcnet.layers.layer import out_shape as out_shape
from funcnet.layers.layer import outline as outline
from funcnet.layers.layer import outputs_of as outputs_of
from funcnet.layers.normalisation import layer_norm as layer_norm
from funcnet.layers.precision import mixed_precision as mixed_precision
from funcnet.layers.recurrent import CELLS as CELLS
from funcnet.layers.recurrent import recurrent as recurrent
