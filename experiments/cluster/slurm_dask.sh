#!/bin/bash
# A sweep within one Slurm allocation: a scheduler of Dask's and the sweep on its first node, a worker for each task.
#
#   sbatch slurm_dask.sh --variants 4096   what follows the script's name goes to the sweep
#
# All of it speaks TLS, with a key that only you can read: other users of the cluster can reach its network.
#SBATCH --job-name=funcnet-dask
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=funcnet-%j.log
# For GPUs, one worker a node, with a thread for each GPU:
##SBATCH --ntasks-per-node=1
##SBATCH --gpus-per-node=4
set -euo pipefail

umask 077
folder=${STORES:-stores}/$SLURM_JOB_ID # on a file system that every node sees
mkdir -p "$folder/tls"
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=funcnet \
  -keyout "$folder/tls/key.pem" -out "$folder/tls/cert.pem" 2> /dev/null
tls=(--tls-ca-file "$folder/tls/cert.pem" --tls-cert "$folder/tls/cert.pem" --tls-key "$folder/tls/key.pem")
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs may share a node
address=tls://${SLURMD_NODENAME:-$(hostname)}:$port
trap 'kill %1 2> /dev/null || true; wait %1 || true' EXIT # the scheduler, which ends its workers

# The batch script runs on the first node of the allocation, and so do the scheduler and the sweep.
dask scheduler --protocol tls --port "$port" --no-dashboard "${tls[@]}" &
srun --kill-on-bad-exit=0 dask worker "$address" --no-nanny --no-dashboard --nthreads "${THREADS:-1}" \
  --death-timeout 300 --local-directory "${TMPDIR:-/tmp}" "${tls[@]}" &
python -m experiments.cluster.train --executor dask --scheduler "$address" --tls "$folder/tls" \
  --workers 1 --store "$folder/store" "$@"
