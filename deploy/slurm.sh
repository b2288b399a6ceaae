#!/bin/bash
# Training on Slurm: one process per GPU, on two nodes with eight GPUs each. Submit it with
#
#   sbatch deploy/slurm.sh --config=kitti --workdir=/shared/runs/kitti --config.data.source_dir=/shared/kitti \
#     --config.data.prepared_dir=/shared/prepared --config.train.batch_size=64
#
# The workdir has to be on storage that all nodes share; the batch size is that of all GPUs together.
#
# Five minutes before the time limit, or when the job is preempted, Slurm sends SIGTERM: the run saves and exits with
# status 130. If a node fails, the other processes exit with 75. In both cases the job is put back into the queue, and
# resumes from the newest checkpoint.

#SBATCH --job-name=pix2pix
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

status=0
srun --kill-on-bad-exit=0 --wait=120 pix2pix_jax train --distributed "$@" || status=$?

case $status in
  75 | 130 | 134) # a process was lost, or the run was stopped and has saved
    echo "Training stopped with status $status and goes back into the queue."
    scontrol requeue "$SLURM_JOB_ID"
    ;;
  *) exit "$status" ;;
esac
