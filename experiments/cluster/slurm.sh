#!/bin/bash
# A sweep as a Slurm job array: each job trains its share of the variants, and keeps it in a store of its own.
#
#   sbatch slurm.sh --variants 4096        what follows the script's name goes to the sweep
#
# A job that is pre-empted, or ends at its time limit, is queued again, and goes on from its store. Nothing connects the jobs.
#SBATCH --job-name=funcnet
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=funcnet-%A_%a.log
# For GPUs: one job a GPU.
##SBATCH --gpus-per-task=1
set -euo pipefail

stores=${STORES:-stores} # on a file system that every node sees
mkdir -p "$stores"

# Two minutes before the time is over: queue this job again. What is on its way then is lost; what is stored is not.
trap 'scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"' USR1

srun python -m experiments.cluster.train --executor threads \
  --share "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --store "$stores/$SLURM_ARRAY_TASK_ID" "$@" &
wait $!
