#!/usr/bin/env bash
# GRPO on GSM8K with verl 0.9 and vLLM on one node, with prepo's strategies: the last lines are what differs from plain
# verl. The data are those of verl's examples/data_preprocess/gsm8k.py. Further arguments are verl's own:
#   examples/verl/run.sh prepo.recipe=greso trainer.total_epochs=1
# Hydra wants quotes around a strategy with parameters: "+prepo.selector='ppl-schedule:ratio=0.3'"
set -euo pipefail

data=${DATA:-$HOME/data/gsm8k}

python -m verl.trainer.main_ppo \
    algorithm.adv_estimator=grpo \
    data.train_files="$data/train.parquet" \
    data.val_files="$data/test.parquet" \
    data.train_batch_size=128 \
    data.max_prompt_length=512 \
    data.max_response_length=1024 \
    data.seed=0 \
    actor_rollout_ref.model.path="${MODEL:-Qwen/Qwen2.5-1.5B-Instruct}" \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.ppo_mini_batch_size=128 \
    actor_rollout_ref.actor.use_dynamic_bsz=True \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.n=8 \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
    actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True \
    trainer.n_gpus_per_node="${GPUS:-1}" \
    trainer.nnodes=1 \
    trainer.project_name=prepo \
    trainer.experiment_name=gsm8k \
    trainer.logger='[console,file]' \
    trainer.test_freq=10 \
    trainer.save_freq=50 \
    trainer.total_epochs=3 \
    trainer.v1.trainer_mode=prepo \
    +prepo.recipe=prepo \
    "$@"
