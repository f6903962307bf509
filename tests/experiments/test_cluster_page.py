"""The page on many machines says what is true: its commands run, its code runs, and its files are what they are for."""

import concurrent.futures
import importlib
import importlib.util
import os
import pickle
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import funcnet as fn
from experiments.cluster import train

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "cluster"
PAGE = (FOLDER / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [text for language, text in BLOCKS if language == "sh"]
CODE = [text for language, text in BLOCKS if language == "python"]
SCRIPTS = ["slurm.sh", "slurm_dask.sh", "tpu_pod.sh"]

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
yaml = pytest.importorskip("yaml", reason="needs PyYAML, which comes with Dask's distributed, of the extra [cluster]")


def free_port():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


# The page


def missing():
    """What the page's commands need and this machine doesn't have."""
    beside = Path(sys.executable).parent
    needed = {"bash": shutil.which("bash"), "openssl": shutil.which("openssl")}
    needed |= {name: (beside / name).exists() for name in ("dask", "mpiexec")}
    needed |= {name: importlib.util.find_spec(name) for name in ("distributed", "mpi4py", "cloudpickle")}
    return sorted(name for name, found in needed.items() if not found)


@pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())}")
def test_every_command_runs_in_its_order_and_all_sweeps_come_to_the_same(tmp_path):
    ports = {port: str(free_port()) for port in ("8786", "8787")}
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),  # the same programs are compiled once, for all of these processes
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",  # three ranks on however many cores: Open MPI 4, and 5
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    said = []
    for block in COMMANDS:
        for port, own in ports.items():
            block = block.replace(port, own)
        said.append(run(block, tmp_path, environment))
    digests = re.findall(r"digest of the table: (\w+)", "\n".join(said[:-1]))
    assert len(digests) == 6 and len(set(digests)) == 1, said  # threads, processes, Dask, Dask by TLS, MPI, and its store again
    workers = re.findall(r"64 runs by (\w+) workers elsewhere", "\n".join(said))
    assert workers[0] == "no" and all(int(own) >= 1 for own in workers[1:5]) and workers[5] == "no"
    assert "refused" in said[2] and "refused" not in said[1]
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700
    assert "64 of 64 runs are completed" in said[-1]
    best = re.search(r"validation/accuracy (\S+) with", said[0])[1]
    assert re.search(r"validation/accuracy (\S+) in stores/[01] with", said[-1])[1] == best  # the shares' best is the sweep's


def run(block, folder, environment):
    """What a block prints. It has a process group of its own, which is ended with it."""
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, stdout=out, stderr=err, start_new_session=True
        )
        try:
            code = process.wait(timeout=600)  # a busy machine
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # all of them have ended
                pass
            process.wait()
        out.seek(0), err.seek(0)
        printed, errors = out.read(), err.read()
    assert code == 0, f"{block}\n{printed}\n{errors[-3000:]}"
    return printed


@pytest.mark.parametrize("block", [own for own in CODE if "RayExecutor" not in own])
def test_the_code_on_the_page_is_the_scripts(block):
    script = (FOLDER / "train.py").read_text()
    assert " ".join(block.split()) in " ".join(script.replace("elif arguments", "if arguments").split())


def test_rays_adapter_is_an_executor(monkeypatch):
    """With a stand-in for Ray that has workers of threads, to which everything is pickled."""
    (block,) = (own for own in CODE if "RayExecutor" in own)
    asked, threads = [], concurrent.futures.ThreadPoolExecutor(2)

    def remote(**options):
        asked.append(options)

        def made(function):
            def call(*arguments):
                future = threads.submit(lambda: pickle.dumps(function(*pickle.loads(pickle.dumps(arguments)))))

                class Reference:
                    def future(self):
                        own = concurrent.futures.Future()
                        future.add_done_callback(lambda done: own.set_result(pickle.loads(done.result())))
                        return own

                return Reference()

            return types.SimpleNamespace(remote=call)

        return made

    module = types.ModuleType("ray")
    module.remote = remote
    monkeypatch.setitem(sys.modules, "ray", module)
    names: dict = {}
    exec(block, names)
    settings = dict(key=jax.random.key(1), num_steps=20, batch_size=64, chunk_size=4, progress=False)
    executor = names["RayExecutor"](2, num_gpus=1)
    assert asked == [{"num_cpus": 1, "num_gpus": 1}] and executor._max_workers == 2
    there = fn.sweep(train.recipe, train.variants_of(8), train.digits(), executor=executor, **settings)
    here = fn.sweep(train.recipe, train.variants_of(8), train.digits(), **settings)
    assert train.digest_of(there.table) == train.digest_of(here.table) and there.timing["workers"]
    threads.shutdown()


def test_the_digest_is_of_every_number():
    table = {"a": np.array([1.0, 2.0]), "b": np.array(["x", "y"], object)}
    digest = train.digest_of(table)
    assert digest == train.digest_of(dict(reversed(table.items()))) and len(digest) == 12
    for changed in ({"a": np.array([1.0, np.nextafter(2.0, 3.0)])}, {"b": np.array(["x", "z"], object)}):
        assert train.digest_of(table | changed) != digest


def test_shares_are_all_of_the_variants_and_each_once():
    variants = train.variants_of(64)
    assert len(variants) == len({str(own) for own in variants}) == 64
    shares = [variants[index::count] for index, count in map(train.share, ("0/3", "1/3", "2/3"))]
    assert sorted(str(own) for part in shares for own in part) == sorted(map(str, variants))
    for wrong in ("3/3", "-1/3", "0", "0/0"):
        with pytest.raises((ValueError, train.argparse.ArgumentTypeError)):
            train.share(wrong)


def test_the_message_on_the_page_is_the_one_that_is_raised():
    from funcnet.sweeps import remote

    sender = types.SimpleNamespace(_versions={"jax": "0.12.0"})
    said = str(remote.Remote._refused(sender, "node7, process 4711", {"jax": "0.10.1"}))
    assert said in " ".join(PAGE.split())


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)[)#]", PAGE))
def test_every_local_link_leads_somewhere(link):
    assert (FOLDER / link).exists()


# Options that exist


def commands_of(text):
    """The commands `python -m ...` and `dask ...` in shell text, as words."""
    text = text.replace("\\\n", " ")
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line)
        for found in re.finditer(r"(python -m experiments|-m experiments|dask (?:scheduler|worker))[^&|;]*", line):
            yield shlex.split(found[0].replace('"$@"', "").replace("$(", "(").replace("`", ""))


def options_of(words):
    """The long options given in a command, and those that it knows."""
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    if words[0] == "dask":
        command = importlib.import_module(f"distributed.cli.dask_{words[1]}").main
        return given, {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    module = importlib.import_module(next(word for word in words if word.startswith("experiments.")))
    return given, set(module.parser()._option_string_actions)


def kubernetes():
    return list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))


def containers():
    found = {}
    for document in kubernetes():
        if document["kind"] in ("Deployment", "Job"):
            (found[document["metadata"]["labels"]["role"]],) = document["spec"]["template"]["spec"]["containers"]
    return found


TEXTS = {"README.md": "\n".join(COMMANDS)} | {name: (FOLDER / name).read_text() for name in SCRIPTS}
TEXTS["kubernetes.yaml"] = "\n".join(shlex.join(own["command"]) for own in containers().values())


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_has_only_options_that_exist(name):
    pytest.importorskip("distributed")
    commands = list(commands_of(TEXTS[name]))
    assert len(commands) >= {"README.md": 10, "slurm.sh": 1, "slurm_dask.sh": 3, "tpu_pod.sh": 1, "kubernetes.yaml": 3}[name]
    for words in commands:
        given, known = options_of(words)
        assert given <= known, words


def test_what_is_to_be_installed_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"'\.\[(.+?)\]'", PAGE + (FOLDER / "Dockerfile").read_text())
    assert len(named) == 3 and {own for names in named for own in names.split(",")} <= set(extras)


# Slurm and TPU pods, with stand-ins


def stand_in(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """`start` runs a script where `python` and `dask` only say how they were called."""
    own = tmp_path / "bin"
    own.mkdir()
    stand_in(own, "python", 'echo "python $* $(env | grep ^TPU_ | sort | tr "\\n" " ")CLOUD=${CLOUD_TPU_TASK_ID:-}" >> "$LOG"')
    stand_in(own, "dask", 'echo "dask $*" >> "$LOG"; [[ $1 == scheduler ]] && exec sleep 60 || true')
    stand_in(own, "srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
    stand_in(own, "scontrol", 'echo "scontrol $*" >> "$LOG"')
    stand_in(own, "curl", 'echo "curl $*" >> "$LOG"; echo 3')

    class Machine:
        log, bin = tmp_path / "log", own

        def start(self, script, *arguments, **environment):
            subprocess.run(["bash", "-n", FOLDER / script], check=True)
            everything = {"PATH": f"{own}:/usr/bin:/bin", "LOG": str(self.log), "STORES": str(tmp_path / "stores")} | environment
            return subprocess.Popen(
                ["bash", FOLDER / script, *arguments],
                cwd=tmp_path,
                env=everything,
                start_new_session=True,
                stderr=subprocess.PIPE,
                text=True,
            )

        def run(self, *arguments, **environment):
            process = self.start(*arguments, **environment)
            try:
                errors = process.communicate(timeout=60)[1]
            finally:
                process.kill()
            assert process.returncode == 0, errors
            return self.log.read_text().splitlines()

    return Machine()


@bash
def test_each_job_of_the_array_trains_its_share_into_its_own_store(machine, tmp_path):
    job = dict(SLURM_ARRAY_JOB_ID="77", SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="8")
    (said,) = machine.run("slurm.sh", "--variants", "32", **job)
    words = said.split()[3:-1]
    arguments = train.parser().parse_args(words)
    assert arguments.share == (3, 8) and arguments.store == tmp_path / "stores" / "3" and arguments.variants == 32
    assert arguments.executor == "threads"


@bash
def test_a_job_whose_time_is_nearly_over_is_queued_again(machine):
    stand_in(machine.bin, "srun", 'touch "$LOG"; exec sleep 60')
    process = machine.start("slurm.sh", SLURM_ARRAY_JOB_ID="77", SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="8")
    try:
        while not machine.log.exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)
        process.wait(timeout=30)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()
    assert machine.log.read_text() == "scontrol requeue 77_3\n"
    settings = dict(re.findall(r"^#SBATCH --(\S+?)(?:=(\S+))?$", (FOLDER / "slurm.sh").read_text(), re.MULTILINE))
    assert {"requeue", "array", "time", "cpus-per-task", "mem"} <= set(settings) and settings["signal"].startswith("B:USR1@")
    assert settings["open-mode"] == "append"


@bash
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_dask_in_an_allocation_speaks_tls_with_a_key_that_nobody_else_reads(machine, tmp_path):
    said = machine.run("slurm_dask.sh", "--variants", "32", SLURM_JOB_ID="4711", SLURMD_NODENAME="node7", HOME=str(tmp_path))
    (scheduler,), (worker,), (sweep,) = ([own for own in said if own.startswith(name)] for name in ("dask s", "dask w", "python"))
    folder = tmp_path / "stores" / "4711"
    tls = f"--tls-ca-file {folder}/tls/cert.pem --tls-cert {folder}/tls/cert.pem --tls-key {folder}/tls/key.pem"
    assert "--protocol tls" in scheduler and "--port 24711" in scheduler and tls in scheduler and "--no-dashboard" in scheduler
    assert "tls://node7:24711" in worker and tls in worker and "--no-dashboard" in worker
    arguments = train.parser().parse_args(sweep.split()[3:-1])
    assert (arguments.executor, arguments.scheduler, arguments.tls) == ("dask", "tls://node7:24711", folder / "tls")
    assert arguments.store == folder / "store" and arguments.variants == 32
    for path in (folder, folder / "tls", folder / "tls" / "key.pem"):
        assert path.stat().st_mode & 0o077 == 0
    assert "PRIVATE KEY" in (folder / "tls" / "key.pem").read_text()


@bash
def test_a_host_of_a_tpu_pod_is_alone_and_trains_its_share(machine, tmp_path):
    asked, said = machine.run("tpu_pod.sh", "--variants", "32", HOSTS="4")
    assert "instance/attributes/agent-worker-number" in asked
    words = said.split()
    arguments = train.parser().parse_args([own for own in words[3:] if not re.match("(TPU|CLOUD)", own)])
    assert arguments.share == (3, 4) and arguments.store == tmp_path / "stores" / "3" and arguments.variants == 32
    for own in ("TPU_PROCESS_BOUNDS=1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1", "TPU_VISIBLE_CHIPS=0,1,2,3", "CLOUD=0"):
        assert own in words
    machine.log.unlink()
    (said,) = machine.run("tpu_pod.sh", HOSTS="2", HOST="0", CHIPS="1,1,1", VISIBLE_CHIPS="0")
    assert "--share 0/2" in said and "TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1" in said


# Kubernetes


def test_the_scheduler_is_within_the_cluster_only():
    documents = kubernetes()
    kinds = [own["kind"] for own in documents]
    assert sorted(kinds) == ["Deployment"] * 2 + ["Job"] + ["NetworkPolicy"] * 2 + ["PersistentVolumeClaim", "Service"]
    assert all(own["apiVersion"] and own["metadata"]["name"] for own in documents)
    service = next(own for own in documents if own["kind"] == "Service")["spec"]
    assert service["type"] == "ClusterIP" and not {"externalIPs", "loadBalancerIP"} & set(service)
    assert not any("hostPort" in port for own in containers().values() for port in own.get("ports", ()))
    assert not any("hostNetwork" in own["spec"]["template"]["spec"] for own in documents if own["kind"] in ("Deployment", "Job"))


def test_policies_let_only_workers_and_the_job_reach_the_scheduler():
    policies = {own["spec"]["podSelector"]["matchLabels"]["role"]: own["spec"] for own in kubernetes() if own["kind"] == "NetworkPolicy"}
    for role, others, port in (("scheduler", {"worker", "sweep"}, 8786), ("worker", {"scheduler", "worker", "sweep"}, 8788)):
        (rule,) = policies[role]["ingress"]
        assert policies[role]["policyTypes"] == ["Ingress"]
        assert {own["podSelector"]["matchLabels"]["role"] for own in rule["from"]} == others and all(
            set(own) == {"podSelector"} for own in rule["from"]
        )
        assert rule["ports"] == [{"protocol": "TCP", "port": port}]


def test_pods_are_one_image_with_probes_resources_and_tls():
    own = containers()
    assert set(own) == {"scheduler", "worker", "sweep"} and len({pod["image"] for pod in own.values()}) == 1
    for role, pod in own.items():
        assert pod["resources"]["requests"]["cpu"] and pod["resources"]["limits"]["memory"]
        assert pod["securityContext"]["allowPrivilegeEscalation"] is False
        assert {"name": "tls", "mountPath": "/tls", "readOnly": True} in pod["volumeMounts"]
        if role != "sweep":
            (port,) = pod["ports"]
            assert all(pod[probe]["tcpSocket"]["port"] == port["name"] for probe in ("readinessProbe", "livenessProbe"))
            option = "--port" if role == "scheduler" else "--worker-port"
            assert pod["command"][pod["command"].index(option) + 1] == str(port["containerPort"])
            for name in ("--tls-ca-file", "--tls-cert", "--tls-key"):
                assert pod["command"][pod["command"].index(name) + 1].startswith("/tls/")
    assert own["scheduler"]["command"][3] == "tls" and own["worker"]["command"][2] == "tls://funcnet-scheduler:8786"
    arguments = train.parser().parse_args(own["sweep"]["command"][3:])
    assert (
        arguments.scheduler == "tls://funcnet-scheduler:8786" and arguments.tls == Path("/tls") and arguments.store.is_relative_to("/store")
    )


def test_pods_are_found_by_what_selects_them():
    documents = kubernetes()
    pods = [own["spec"]["template"] for own in documents if own["kind"] in ("Deployment", "Job")]
    labels = [own["metadata"]["labels"] for own in pods]
    assert [own["role"] for own in labels] == ["scheduler", "worker", "sweep"]
    for own in documents:
        if own["kind"] == "Deployment":
            assert own["spec"]["selector"]["matchLabels"] == own["spec"]["template"]["metadata"]["labels"]
        if own["kind"] == "Service":
            assert own["spec"]["selector"] in labels and own["metadata"]["name"] == "funcnet-scheduler"
        if own["kind"] == "NetworkPolicy":
            assert own["spec"]["podSelector"]["matchLabels"] in labels
    for pod in pods:
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        assert {own["name"] for own in pod["spec"]["containers"][0]["volumeMounts"]} == volumes
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    claims = {own["metadata"]["name"] for own in documents if own["kind"] == "PersistentVolumeClaim"}
    assert pods[2]["spec"]["volumes"][1]["persistentVolumeClaim"]["claimName"] in claims and pods[2]["spec"]["restartPolicy"] == "OnFailure"
