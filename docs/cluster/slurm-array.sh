#!/bin/bash
# Tile features of a cohort by eight machines that do not know of each other: each takes its own eighth of the slides.
#   sbatch slurm-array.sh COHORT OUT [OPTION ...]
#SBATCH --job-name=survfuse-extract
#SBATCH --array=1-8
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

parts=8 # as in --array above; a part that is submitted again by itself must know it as well
cohort=$1 out=$2
shift 2
# A part that was stopped is submitted again and goes on: slides whose features are whole are skipped.
exec survfuse extract "$cohort" --out "$out" --shard "$SLURM_ARRAY_TASK_ID/$parts" "$@"
