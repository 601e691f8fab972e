"""The ready files for clusters: against KubeRay's and Kubernetes' fields, Ray's launcher schema, AWS' API, bash."""

import copy
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "cluster" / "clusters"
KUBERAY = FILES / "kuberay"
GO_ON = FILES / "go_on.sh"
SBATCH = FILES / "slurm" / "penstock.sbatch"

_spec = util.spec_from_file_location("kube_fields", Path(__file__).parent / "kube_fields.py")
assert _spec is not None
assert _spec.loader is not None
fields = util.module_from_spec(_spec)
_spec.loader.exec_module(fields)


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _versions() -> dict[str, str]:
    lines = [line for line in (KUBERAY / "cluster" / "versions.env").read_text().splitlines() if line[:1] != "#"]
    return dict(line.split("=", 1) for line in lines if line)


def _resources() -> dict[str, dict[str, Any]]:
    """The two resources, put together as the kustomizations say."""
    cluster, job = _read(KUBERAY / "cluster" / "raycluster.yaml"), _read(KUBERAY / "job" / "rayjob.yaml")
    cluster["spec"]["rayVersion"] = _versions()["RAY_VERSION"]
    for template in _templates(cluster["spec"]):
        template["spec"]["containers"][0]["image"] = _versions()["IMAGE"]
    job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"] = _versions()["IMAGE"]
    job["spec"]["rayClusterSpec"] = copy.deepcopy(cluster["spec"])
    return {"RayCluster": cluster, "RayJob": job}


def _templates(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


# ------------------------------------------------------------------------------------------------------------ KubeRay


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_manifests_hold_only_fields_that_kuberay_and_kubernetes_know(kind: str) -> None:
    assert fields.faults(_resources()[kind], kind, kind) == []


def test_the_check_of_fields_finds_faults() -> None:
    cluster = _resources()["RayCluster"]
    spec = cluster["spec"]
    spec["headGroupSpec"]["template"]["spec"]["terminationGracePeriodSecond"] = 9
    spec["workerGroupSpecs"][0]["maxReplicas"] = "8"
    del spec["workerGroupSpecs"][1]["groupName"]
    spec["authOptions"]["mode"] = "tokn"
    found = "\n".join(fields.faults(cluster, "RayCluster", "RayCluster"))
    assert "PodSpec has no field terminationGracePeriodSecond" in found
    assert "workerGroupSpecs[0].maxReplicas: '8' is not of type" in found
    assert "workerGroupSpecs[1]: a WorkerGroupSpec needs groupName" in found
    assert "'tokn' is none of" in found
    assert len(found.splitlines()) == 4


def test_kustomize_builds_the_same_manifests() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here, which has kustomize in it")
    expected = _resources()
    for folder, kind in (("cluster", "RayCluster"), ("job", "RayJob")):
        built = subprocess.run(["kubectl", "kustomize", KUBERAY / folder], capture_output=True, text=True, check=True)
        documents = {document["kind"]: document for document in yaml.safe_load_all(built.stdout)}
        assert set(documents) == {"Namespace", "PersistentVolumeClaim", "NetworkPolicy", kind}
        assert documents[kind]["spec"] == expected[kind]["spec"]
        assert "set-by-versions" not in built.stdout


def test_versions_are_said_once_and_are_those_of_the_project() -> None:
    versions = _versions()
    assert set(versions) == {"RAY_VERSION", "PYTHON", "IMAGE"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ray = next(line for line in project["optional-dependencies"]["ray"] if line.startswith("ray"))
    from packaging.requirements import Requirement

    assert versions["RAY_VERSION"] in Requirement(ray).specifier
    assert metadata.version("ray") == versions["RAY_VERSION"], "the version that these tests run is the one to ship"
    assert re.fullmatch(r"py3\d\d", versions["PYTHON"])
    assert f"3.{versions['PYTHON'][3:]}" in project["requires-python"] or int(versions["PYTHON"][3:]) > 11
    for file in FILES.rglob("*"):
        if file.is_file() and file.name != "versions.env" and "__pycache__" not in file.parts:
            assert versions["RAY_VERSION"] not in file.read_text(), file
    docker = (KUBERAY / "Dockerfile").read_text()
    assert "ray:${RAY_VERSION}-${PYTHON}" in docker
    assert "==${RAY_VERSION}" in docker


def test_pods_ask_for_what_they_may_use_and_all_see_the_runs() -> None:
    for template in _templates(_resources()["RayCluster"]["spec"]):
        (container,) = template["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in template["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        runs = next(item["value"] for item in container["env"] if item["name"] == "PENSTOCK_RUNS")
        assert claims[mounts[runs]] == {"claimName": _read(KUBERAY / "cluster" / "runs.yaml")["metadata"]["name"]}
    assert _read(KUBERAY / "cluster" / "runs.yaml")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_head_does_no_work_and_is_reached_from_inside_only() -> None:
    spec = _resources()["RayCluster"]["spec"]
    head = spec["headGroupSpec"]
    assert (head["rayStartParams"]["num-cpus"], head["serviceType"], head["enableIngress"]) == ("0", "ClusterIP", False)
    assert spec["authOptions"] == {"mode": "token"}
    labels = _read(KUBERAY / "cluster" / "network.yaml")["spec"]["podSelector"]["matchLabels"].items()
    job = _resources()["RayJob"]["spec"]["submitterPodTemplate"]
    for template in (*_templates(spec), job):
        assert labels <= template["metadata"]["labels"].items()
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_pods_are_given_time_for_a_checkpoint() -> None:
    spec = _resources()["RayCluster"]["spec"]
    for template in _templates(spec)[1:]:
        environment = {item["name"]: item["value"] for item in template["spec"]["containers"][0]["env"]}
        drain = float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert 60 <= drain < template["spec"]["terminationGracePeriodSeconds"]
    head = _templates(spec)[0]["spec"]
    (container,) = head["containers"]
    environment = {item["name"]: item["value"] for item in container["env"]}
    assert 60 <= float(environment["RAY_JOB_STOP_WAIT_TIME_S"]) < head["terminationGracePeriodSeconds"]
    from ray._private import ray_constants

    assert hasattr(ray_constants, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"), "Ray calls it otherwise now"
    script = next(word for word in container["lifecycle"]["preStop"]["exec"]["command"] if word.endswith(".sh"))
    assert (ROOT / script.removeprefix("/opt/penstock/")).is_file()


def test_the_command_of_the_job_is_one_that_penstock_understands() -> None:
    from cluster.cli import build_parser

    words = _resources()["RayJob"]["spec"]["entrypoint"].split()
    assert words[:2] == ["bash", "/opt/penstock/cluster/clusters/go_on.sh"]
    found = build_parser().parse_args([*words[3:], "--name", words[2]])
    assert (found.verb, found.on, found.name) == ("run", "ray", words[2])
    head_cores = int(_resources()["RayCluster"]["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"])
    groups = _resources()["RayCluster"]["spec"]["workerGroupSpecs"]
    room = [
        float(g["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) * g["maxReplicas"] for g in groups
    ]
    assert head_cores + sum(room) >= found.workers * found.cpus_per_worker


# ----------------------------------------------------------------------------------------------------- Ray's launcher


def _launcher() -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(_read(FILES / "launcher" / "aws.yaml"))


def test_launcher_file_fits_rays_schema() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    validate_config(_launcher())
    wrong = _launcher()
    wrong["idle_timeout_minute"] = 5
    with pytest.raises(ValidationError, match="idle_timeout_minute"):
        validate_config(wrong)


def test_nodes_of_the_launcher_file_are_what_aws_takes() -> None:
    session = pytest.importorskip("botocore.session", reason="no botocore here")
    from botocore.validate import ParamValidator

    shape = session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    nodes = _launcher()["available_node_types"]
    for name, node in nodes.items():
        request = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(request, shape).has_errors(), name
    wrong = {**nodes["cpu"]["node_config"], "InstanceMarketOption": {}, "MinCount": 1, "MaxCount": 1}
    assert ParamValidator().validate(wrong, shape).has_errors()
    assert "InstanceMarketOptions" not in nodes["head"]["node_config"], "the head's death ends what runs"
    assert all(nodes[name]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot" for name in ("cpu", "gpu"))


def test_launcher_file_opens_nothing_and_asks_for_the_token() -> None:
    config = _launcher()
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    for node in config["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"], "else Ray makes a group that is open to the world on port 22"
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 0}
    watcher = re.search(r"python (\S+spot_watch\.py)", config["worker_start_ray_commands"][-1])
    assert watcher is not None
    assert (ROOT / watcher.group(1).removeprefix("/opt/penstock/")).is_file()


@pytest.fixture
def metadata_service() -> Iterator[tuple[str, list[bool]]]:
    """AWS' instance metadata (version 2: a token first), and a list that is not empty once there is a notice."""
    noticed: list[bool] = []

    class Service(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer(200, "secret" if "X-aws-ec2-metadata-token-ttl-seconds" in self.headers else "")

        def do_GET(self) -> None:
            known = self.headers["X-aws-ec2-metadata-token"] == "secret"
            code = 401 if not known else 200 if noticed and self.path.endswith("/spot/instance-action") else 404
            self._answer(code, '{"action": "terminate"}')

        def _answer(self, code: int, text: str) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", noticed
    server.shutdown()
    server.server_close()


def test_spot_notice_becomes_a_drain_of_the_node(
    metadata_service: tuple[str, list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.clusters.launcher import spot_watch

    address, noticed = metadata_service
    assert spot_watch.notice(address) is None
    assert spot_watch.notice("http://127.0.0.1:9") is None, "no answer is no notice"
    commands: list[list[str]] = []

    def recorded(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    looks = iter([True, True, False])
    monkeypatch.setattr(spot_watch, "raylet_lives", lambda: next(looks))
    monkeypatch.setattr(spot_watch.subprocess, "run", recorded)
    assert spot_watch.watch("head:6379", address, 0.01) == 0, "ends with the raylet"
    assert not commands
    noticed.append(True)
    monkeypatch.setattr(spot_watch, "raylet_lives", lambda: True)
    assert spot_watch.watch("head:6379", address, 0.01) == 0
    from click.testing import CliRunner
    from ray.scripts.scripts import drain_node

    # Ray's own command line takes these words: it gets as far as looking for the cluster.
    result = CliRunner().invoke(drain_node, [*commands[0][2:], "--deadline-remaining-seconds", "-1", "--help"])
    assert result.exit_code == 0, result.output
    assert commands[0][:4] == ["ray", "drain-node", "--address", "head:6379"]
    assert "DRAIN_NODE_REASON_PREEMPTION" in commands[0]


# --------------------------------------------------------------------------------------------------- scripts in bash


@pytest.mark.parametrize("script", [GO_ON, SBATCH], ids=lambda path: path.name)
def test_scripts_are_sound_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is not None:
        subprocess.run(["shellcheck", "--shell=bash", script], check=True)


STANDIN = """#!/usr/bin/env python3
import os, signal, subprocess, sys, time
from pathlib import Path
log = Path(os.environ["STANDIN_LOG"])
def say(text):
    with log.open("a") as file:
        file.write(text + "\\n")
def stop(*_):
    time.sleep(0.3)
    say(f"saved by {sys.argv[1]}")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
if sys.argv[1] == "child":
    say("child ready")
    while True: time.sleep(0.05)
say(" ".join(sys.argv[1:]))
if "wait" in os.environ.get("STANDIN", ""):
    subprocess.Popen([sys.executable, __file__, "child"])
    while True: time.sleep(0.05)
"""


@pytest.fixture
def go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start go_on.sh with a stand-in for penstock that writes its words to `tmp_path / "log"`."""
    (tmp_path / "standin").write_text(STANDIN.replace("/usr/bin/env python3", sys.executable))
    (tmp_path / "standin").chmod(0o755)
    monkeypatch.setenv("PENSTOCK", str(tmp_path / "standin"))
    monkeypatch.setenv("PENSTOCK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STANDIN_LOG", str(tmp_path / "log"))
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(["bash", GO_ON, *words], stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


def _said(tmp_path: Path, text: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not ((tmp_path / "log").exists() and text in (tmp_path / "log").read_text()):
        assert time.monotonic() < end, f"'{text}' was never said"
        time.sleep(0.05)


def test_go_on_starts_a_run_once_and_resumes_it_afterwards(
    go_on: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    assert go_on("mine", "run", "toy", "--on", "ray").wait() == 0
    for mark, name in (("status.json", "mine"), ("sweep.yaml", "search")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / mark).touch()
        assert go_on(name, "run", "toy", "--on", "ray").wait() == 0
    assert (tmp_path / "log").read_text().splitlines() == [
        "run toy --on ray --name mine",
        "resume mine",
        "resume search",
    ]
    assert go_on("mine").wait() == 2


@pytest.mark.parametrize("how", ["signal", "stop"])
def test_go_on_passes_a_stop_to_all_processes_and_waits_for_their_checkpoint(
    go_on: Callable[..., subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("STANDIN", "wait")
    name = f"mine-{os.getpid()}"  # nobody else's on this machine
    process = go_on(name, "run", "toy")
    _said(tmp_path, "child ready")
    if how == "signal":
        process.send_signal(signal.SIGTERM)
    else:
        stopping = go_on("--stop", name)
        assert stopping.wait(timeout=20) == 0
        assert process.poll() is not None, "it waits for the end of what it stops"
    assert process.wait(timeout=20) == 130
    assert sorted((tmp_path / "log").read_text().splitlines()[2:]) == ["saved by child", "saved by run"]


SLURM = {
    # The step's words, without Slurm's own.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n',
    "ray": 'echo "ray $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} $*" >>"$STANDIN_LOG.ray"\nexec sleep 1000\n',
    "python": 'if [ "$1" = -c ]; then echo 12345; else cat >/dev/null; fi\n',
    "scontrol": 'echo "$*" >>"$STANDIN_LOG.scontrol"\n',
}
"""Stand-ins for what the Slurm script calls; the cluster is complete at once."""


@pytest.fixture
def slurm(go_on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.Popen[str]]:
    """Run the Slurm script as Slurm would, on one node."""
    (tmp_path / "bin").mkdir()
    for name, text in SLURM.items():
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n" + text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    job = {"SUBMIT_DIR": ROOT, "JOB_ID": f"t{os.getpid()}", "JOB_NUM_NODES": 1, "CPUS_PER_TASK": 2, "GPUS_ON_NODE": 0}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("PENSTOCK_SETUP", "/nowhere")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "bin"))  # where its log of the Ray nodes is

    def start(*words: str) -> subprocess.Popen[str]:
        # Its own copy, as Slurm makes one: the script must not look for its neighbours beside itself.
        copied = shutil.copy(SBATCH, tmp_path / "slurm_script")
        return subprocess.Popen(["bash", copied, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def test_slurm_script_ends_with_its_run(slurm: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    job = slurm("mine", "run", "toy", "--on", "ray")
    output, _ = job.communicate(timeout=30)
    assert job.returncode == 0, output
    assert (tmp_path / "log").read_text().splitlines() == ["run toy --on ray --name mine"]
    (ray,) = (tmp_path / "log.ray").read_text().splitlines()
    assert ray.startswith("ray token 64 start --head --node-ip-address=127.0.0.1 --port=12345 ")
    assert "--num-cpus 2 --num-gpus 0" in ray
    assert "--include-dashboard=false" in ray
    assert not (tmp_path / "log.scontrol").exists(), "a finished run is not queued again"
    assert sorted(file.name for file in (tmp_path / "bin").iterdir()) == sorted(SLURM), "nothing stays"
    assert slurm("mine").wait(timeout=30) == 2


@pytest.mark.parametrize(("before", "again"), [(0, True), (50, False)])
def test_slurm_script_queues_itself_again_after_a_stop(
    slurm: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: int,
    again: bool,
) -> None:
    monkeypatch.setenv("STANDIN", "wait")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(before))
    job = slurm("mine", "run", "toy")
    _said(tmp_path, "child ready")
    job.send_signal(signal.SIGTERM)  # as --signal=B:TERM@… does: to the script alone
    output, _ = job.communicate(timeout=30)
    assert job.returncode == 130, output
    assert "saved by child" in (tmp_path / "log").read_text()
    asked = (tmp_path / "log.scontrol").read_text() if (tmp_path / "log.scontrol").exists() else ""
    assert asked == (f"requeue t{os.getpid()}\n" if again else "")
