#!/bin/bash
# A Ray cluster on the machines of one Slurm job, for one command, which runs on the first of them:
#   sbatch ray-on-slurm.sh extract COHORT --out OUT --encoder uni --weights uni.bin --gpus-per-worker 0.5
#SBATCH --job-name=survfuse-ray
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --mem=128G
#SBATCH --time=24:00:00
set -euo pipefail

trap 'jobs -p | xargs -r kill' EXIT # Ray, where Slurm does not end it

# Only those who know this job's token are let in. Nothing is encrypted: the network must be private.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it over by itself

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
host=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address | awk '{ print $1 }')
address=$host:$((20000 + SLURM_JOB_ID % 20000))

srun --nodes=1 --ntasks=1 --nodelist="$first" --overlap \
  ray start --head --node-ip-address="$host" --port="${address##*:}" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false --block &
for _ in {1..100}; do
  ray health-check --address "$address" 2>/dev/null && break
  sleep 2
done

others=$((SLURM_JOB_NUM_NODES - 1))
if ((others > 0)); then
  srun --nodes="$others" --ntasks="$others" --exclude="$first" --overlap \
    ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi
# The command sees the machines that have joined by now; with --workers it waits for more.
sleep "${JOIN_SECONDS:-30}"

survfuse "$@" --cluster "$address"
