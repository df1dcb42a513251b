"""The launch files: what accelerate itself makes of them, the Slurm scripts run with stand-in commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

EXAMPLES = Path(__file__).parents[2] / "examples"
ACCELERATE = EXAMPLES / "accelerate"
SLURM = EXAMPLES / "slurm"
FSDP = ("fsdp2.yaml", "fsdp2_multinode.yaml")
ZERO = ("zero2.yaml", "zero3.yaml")


def load(name: str) -> ClusterConfig:
    return load_config_from_file(str(ACCELERATE / name))


def launched(name: str, *flags: str) -> tuple[object, dict[str, str]]:
    """What `accelerate launch --config_file NAME FLAGS -m prepo_cli train` would start, and with which environment."""
    args = launch_command_parser().parse_args(
        ["--config_file", str(ACCELERATE / name), *flags, "-m", "prepo_cli", "train", "--steps", "2"]
    )
    args, _, _ = _validate_launch_command(args)
    if not args.use_deepspeed:
        return args, prepare_multi_gpu_env(args)
    args.deepspeed_fields_from_accelerate_config = ""  # the command fills it in between
    return args, prepare_deepspeed_cmd_env(args)[1]


def test_every_file_is_known_to_the_tests() -> None:
    assert {path.name for path in ACCELERATE.glob("*.yaml")} == {"ddp.yaml", *FSDP, *ZERO}


@pytest.mark.parametrize(
    ("name", "kind", "machines", "processes"),
    [
        ("ddp.yaml", DistributedType.MULTI_GPU, 1, 8),
        ("fsdp2.yaml", DistributedType.FSDP, 1, 8),
        ("fsdp2_multinode.yaml", DistributedType.FSDP, 2, 16),
        ("zero2.yaml", DistributedType.DEEPSPEED, 1, 8),
        ("zero3.yaml", DistributedType.DEEPSPEED, 1, 8),
    ],
)
def test_accelerate_reads_the_file(name: str, kind: DistributedType, machines: int, processes: int) -> None:
    config = load(name)
    assert config.distributed_type == kind
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert config.mixed_precision == "no", "prepo's own setting decides"
    assert not config.use_cpu
    assert bool(config.fsdp_config) == (kind == DistributedType.FSDP)
    assert bool(config.deepspeed_config) == (kind == DistributedType.DEEPSPEED)


@pytest.mark.parametrize("name", FSDP)
def test_fsdp_is_version_2_and_every_process_loads_the_model(name: str) -> None:
    """transformers leaves the weights of all but the first process empty where the loading is to be efficient."""
    assert load(name).fsdp_config == {"fsdp_version": 2, "fsdp_cpu_ram_efficient_loading": False}
    environment = launched(name)[1]
    assert environment["FSDP_CPU_RAM_EFFICIENT_LOADING"].lower() == "false"


@pytest.mark.parametrize("name", ZERO)
def test_deepspeed_is_started_with_the_files_stage(name: str) -> None:
    args, environment = launched(name)
    assert int(args.nproc_per_node) == 8
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == name[4]
    several = ["--num_machines", "2", "--num_processes", "16", "--machine_rank", "1", "--main_process_ip", "10.1.2.3"]
    args, _ = launched(name, *several)
    assert (int(args.nnodes), int(args.nproc_per_node), int(args.node_rank)) == (2, 8, 1)


def test_the_launcher_starts_what_the_file_says() -> None:
    args, environment = launched("ddp.yaml")
    assert (args.module, args.training_script, args.training_script_args) == (
        True,
        "prepo_cli",
        ["train", "--steps", "2"],
    )
    assert args.multi_gpu and int(args.nproc_per_node) == 8
    assert "ACCELERATE_USE_FSDP" not in environment
    args, environment = launched("fsdp2.yaml")
    assert args.use_fsdp and int(args.nproc_per_node) == 8
    assert (environment["ACCELERATE_USE_FSDP"], environment["FSDP_VERSION"]) == ("true", "2")


def test_several_nodes_differ_by_rank_and_address_alone() -> None:
    args, environment = launched(
        "fsdp2_multinode.yaml", "--machine_rank", "1", "--main_process_ip", "10.1.2.3", "--num_machines", "2"
    )
    assert (int(args.nnodes), int(args.nproc_per_node), int(args.node_rank)) == (2, 8, 1)
    assert "10.1.2.3" in (getattr(args, "master_addr", None) or args.rdzv_endpoint)
    assert environment["FSDP_VERSION"] == "2"


def test_the_multinode_file_serves_one_node_too() -> None:
    """As train_and_serve.sbatch uses it with one training node."""
    args, _ = launched("fsdp2_multinode.yaml", "--num_machines", "1", "--num_processes", "8", "--machine_rank", "0")
    assert int(args.nproc_per_node) == 8


def test_what_a_user_must_change_is_marked() -> None:
    for path in ACCELERATE.glob("*.yaml"):
        lines = {line.split(":")[0].strip(): line for line in path.read_text().splitlines() if ":" in line}
        assert "# change: " in lines["num_processes"], path.name
    addressed = (ACCELERATE / "fsdp2_multinode.yaml").read_text().splitlines()
    for key in ("num_machines", "machine_rank", "main_process_ip", "main_process_port"):
        assert any(line.startswith(f"{key}:") and "# change: " in line for line in addressed)


@pytest.mark.parametrize("script", sorted(SLURM.glob("*.sbatch")), ids=lambda path: path.stem)
def test_slurm_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "#SBATCH --requeue" in script.read_text()


STANDINS = {
    # Runs the command once for each task, as Slurm does on each node, and ends them when it is told to end.
    "srun": """tasks=1
while [[ "$1" == --* ]]; do case "$1" in --ntasks=*) tasks=${1#*=};; esac; shift; done
trap 'kill $(jobs -p) 2> /dev/null' TERM
for ((i = 0; i < tasks; i++)); do SLURM_NODEID=$i "$@" & done
failed=0; for job in $(jobs -p); do wait "$job" || failed=1; done; exit $failed""",
    "scontrol": 'printf "%s\\n" node1 node2 node3 node4 | head -n "${NODES:-4}"',
    "curl": 'test -e "$LOG/up" && echo "curl $*" >> "$LOG/calls"',
    "sleep": "exec /bin/sleep 0.1",
    "vllm": """echo "vllm $* dev=$VLLM_SERVER_DEV_MODE" >> "$LOG/calls"
[ -z "${BROKEN:-}" ] || exit 1
touch "$LOG/up"; echo $$ >> "$LOG/pids"; exec /bin/sleep 60""",
    "accelerate": 'echo "accelerate $*" >> "$LOG/calls"; exit "${TRAIN_CODE:-0}"',
}


def submit(script: str, folder: Path, *arguments: str, **environment: str) -> tuple[int, list[str], str]:
    """Run a script from the repository's root with stand-ins for all commands; code, calls and messages."""
    commands = folder / "bin"
    shutil.rmtree(commands, ignore_errors=True)
    commands.mkdir()
    for name, body in STANDINS.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)
    for left in ("calls", "up", "pids"):
        (folder / left).unlink(missing_ok=True)
    given = {"PATH": f"{commands}:{os.environ['PATH']}", "LOG": str(folder), "RUN": str(folder / "run")}
    given |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-4]", **environment}
    ended = subprocess.run(
        ["bash", str(SLURM / script), *arguments],
        env=given,
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").is_file() else []
    return ended.returncode, calls, ended.stderr


def test_one_node_goes_on_where_a_checkpoint_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, calls, _ = submit("one_node.sbatch", tmp_path, "-m", "prepo_cli", "train")
    first = "accelerate launch --config_file examples/accelerate/fsdp2.yaml -m prepo_cli train --engine vllm"
    first += f" --output-dir {run}"
    assert (code, calls) == (0, [first])
    run.mkdir()
    (run / "config.yaml").touch()
    assert submit("one_node.sbatch", tmp_path, "-m", "prepo_cli", "train")[1] == [first]
    again = submit("one_node.sbatch", tmp_path, "-m", "prepo_cli", "train", SLURM_RESTART_COUNT="1")
    assert again[1] == [f"{first} --overwrite --break-lock"]
    (run / "checkpoints" / "step-000010").mkdir(parents=True)
    half_written = submit("one_node.sbatch", tmp_path, "-m", "prepo_cli", "train")
    assert half_written[1] == [first]
    (run / "checkpoints" / "step-000010" / "state.json").touch()
    assert submit("one_node.sbatch", tmp_path, "-m", "prepo_cli", "train")[1] == [f"{first} --resume"]
    again = submit("one_node.sbatch", tmp_path, "-m", "prepo_cli", "train", SLURM_RESTART_COUNT="1")
    assert again[1] == [f"{first} --resume --break-lock"]
    assert submit("one_node.sbatch", tmp_path, "-m", "prepo_cli", "train", TRAIN_CODE="1")[0] != 0
    code, calls, messages = submit("one_node.sbatch", tmp_path)
    assert (code, calls) == (2, []) and "nothing to train; run: sbatch" in messages


def test_serving_nodes_serve_and_the_others_train(tmp_path: Path) -> None:
    code, calls, messages = submit("train_and_serve.sbatch", tmp_path, "m/32B", "--dataset", "a b.jsonl")
    assert code == 0, messages
    served = sorted(call for call in calls if call.startswith("vllm"))
    assert len(served) == 2
    for rank, call in enumerate(served):
        assert call.startswith("vllm serve m/32B --host node1 --port 8000 --tensor-parallel-size 8")
        assert "--logprobs-mode processed_logprobs --return-tokens-as-token-ids" in call
        assert '--weight-transfer-config {"backend": "nccl"}' in call
        assert f"--pipeline-parallel-size 2 --nnodes 2 --node-rank {rank} --master-addr node1" in call
        assert ("--headless" in call) == (rank == 1)
        assert call.endswith("dev=1")
    trained = sorted(call for call in calls if call.startswith("accelerate"))
    assert len(trained) == 2
    for rank, call in enumerate(trained):
        assert f"--num_machines 2 --num_processes 16 --machine_rank {rank} --main_process_ip node3" in call
        assert "--engine vllm-server --set engine.vllm_server_base_url=http://node1:8000 --dataset a b.jsonl" in call
    assert any("http://node1:8000/health" in call for call in calls)
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        assert not Path(f"/proc/{pid}/cmdline").exists() or b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_one_and_one_node_need_no_pipeline(tmp_path: Path) -> None:
    code, calls, messages = submit("train_and_serve.sbatch", tmp_path, "m/7B", SERVER_NODES="1", NODES="2")
    assert code == 0, messages
    served, trained = ([c for c in calls if c.startswith(name)] for name in ("vllm", "accelerate"))
    assert len(served) == len(trained) == 1
    assert "--nnodes" not in served[0] and "--headless" not in served[0]
    assert "--num_machines 1 --num_processes 8 --machine_rank 0 --main_process_ip node2" in trained[0]


def test_a_failed_training_ends_the_server_and_the_job(tmp_path: Path) -> None:
    code, _, _ = submit("train_and_serve.sbatch", tmp_path, "m/32B", TRAIN_CODE="1")
    assert code != 0
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        assert not Path(f"/proc/{pid}/cmdline").exists() or b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_server_that_does_not_start_ends_the_job(tmp_path: Path) -> None:
    code, calls, messages = submit("train_and_serve.sbatch", tmp_path, "m/32B", BROKEN="1")
    assert code == 1 and "stopped before it was ready" in messages
    assert not any(call.startswith("accelerate") for call in calls)
    code, _, messages = submit("train_and_serve.sbatch", tmp_path, "m/32B", NODES="2")
    assert code == 2 and "leave none to train" in messages
