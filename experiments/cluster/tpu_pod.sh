#!/bin/bash
# A sweep on a slice of a TPU pod: each host trains its share of the variants on its own chips, and keeps it in a store of its own.
#
#   gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker all --command "cd funcnet && bash experiments/cluster/tpu_pod.sh"
#   HOSTS=4 CHIPS=2,2,1 bash experiments/cluster/tpu_pod.sh --variants 4096
#
# Hosts of a slice start their TPUs together, and the first of them waits for the others, unless it is told that it is alone.
# TPU_PROCESS_BOUNDS says so. Then jax.local_devices() are the host's own chips, a sweep uses all of them, a chunk each, and a
# host that fails or comes later changes nothing for the others.
set -euo pipefail

metadata() {
  curl --fail --silent --header "Metadata-Flavor: Google" "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

host=${HOST:-$(metadata agent-worker-number)} # 0, 1, ...
hosts=${HOSTS:?how many hosts the slice has: 4 for v5litepod-16 or v4-32}
stores=${STORES:-stores} # a bucket that is mounted, or each host's own disk

export TPU_PROCESS_BOUNDS=1,1,1                         # this process is the only one
export TPU_CHIPS_PER_PROCESS_BOUNDS=${CHIPS:-2,2,1}     # and has the host's four chips
export TPU_VISIBLE_CHIPS=${VISIBLE_CHIPS:-0,1,2,3}
export CLOUD_TPU_TASK_ID=0                              # the first of one, whatever number the host has
export TPU_PROCESS_PORT=8476
export TPU_PROCESS_ADDRESSES=localhost:$TPU_PROCESS_PORT

mkdir -p "$stores"
exec python -m experiments.cluster.train --executor threads --share "$host/$hosts" --store "$stores/$host" "$@"
