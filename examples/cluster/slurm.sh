#!/bin/bash
# Sampling on several nodes under Slurm: one torchrun agent per node, one rank per GPU, evaluator "distributed".
#
# NOT RUN BY US on a cluster: its syntax and the names of its options are checked by tests/test_cluster.py. Change what
# is marked with EDIT. Submit with: sbatch examples/cluster/slurm.sh
#
#SBATCH --job-name=paracore
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=16
#SBATCH --time=00:30:00
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue

set -euo pipefail

gpus=8                         # as in --gpus-per-node
source .venv/bin/activate      # EDIT: an environment with paracore that all nodes see
state=paracore.checkpoint      # EDIT: on a file system that all nodes see

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# a job that was put back in the queue goes on where the last one was
resume=()
if [[ -f $state ]]; then
    resume=(--resume "$state")
fi

# srun does not take --cpus-per-task over from sbatch since Slurm 22.05
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \
    torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc-per-node="$gpus" \
    --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$head:29400" \
    -m paracore sample --model digits --device cuda --evaluator distributed \
    --steps 50 --guidance 4 --classes 0-9 --count 160 --window 8 \
    --checkpoint "$state" "${resume[@]}" --out digits

rm -f "$state"
