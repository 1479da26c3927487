"""The files in deploy/ are what their programs read, and fit what the server does."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs.reading.command_line import parse_command_line
from configs.reading.names import fields
from configs.schema.serve import Serve
from serve import FLAGS
from tests.serving.servers import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES_VERSION = "1.33"
MOST_EXPOSURE = 20
"""Of the scale of `systemd-analyze security`: up to 20 of 100 is "OK"."""


def check(program: str, *arguments: str) -> str:
    """Run a program of this machine, which must succeed; return what it says."""
    places = (str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin")
    path = shutil.which(program, path=os.pathsep.join(places))
    if path is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [path, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def read(name: str) -> str:
    return (DEPLOY / name).read_text()


def resources() -> dict[str, dict]:
    """Return the resources of the example for Kubernetes, by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(read("kubernetes.yaml"))}


def unit() -> dict[str, str]:
    """Return the settings of the unit of systemd."""
    lines = [line.partition("=") for line in read("triform.service").splitlines()]
    return {name: value for name, sign, value in lines if sign and not name.startswith("#")}


def image_command() -> tuple[list[str], list[str]]:
    """Return the entry point of the image, and its default arguments."""
    found = re.search(r"^ENTRYPOINT (.*)\nCMD (.*)$", read("Containerfile"), re.MULTILINE)
    assert found is not None
    entry, arguments = map(yaml.safe_load, found.groups())
    return entry, arguments


def flags_of(command: list[str]) -> dict[str, object]:
    """Return the flags of a command that runs serve.py; wrong ones raise."""
    arguments = parse_command_line(command[command.index("serve.py") + 1 :], FLAGS, overrides=True)
    assert set(arguments.overrides) <= set(fields())
    return vars(arguments)


# ---- systemd


@pytest.fixture
def unit_file(tmp_path: Path) -> Path:
    """A copy of the unit whose programs are those of this tree."""
    text = read("triform.service").replace("/opt/triform/.venv/bin/python", sys.executable)
    path = tmp_path / "triform.service"
    path.write_text(text.replace("/opt/triform", str(ROOT)))
    return path


def test_systemd_reads_the_unit_without_a_complaint(unit_file):
    assert check("systemd-analyze", "verify", str(unit_file)) == ""


def test_systemd_calls_the_unit_well_shut_off(unit_file):
    threshold = f"--threshold={MOST_EXPOSURE}"
    check("systemd-analyze", "security", "--no-pager", "--offline=true", threshold, str(unit_file))


def test_systemd_waits_until_the_server_has_finished():
    flags = flags_of(shlex.split(unit()["ExecStart"]))
    assert flags["token_file"] == "%d/token"
    assert unit()["LoadCredential"].startswith("token:")
    assert int(unit()["TimeoutStopSec"]) > Serve().drain_seconds


# ---- containers


def test_the_linter_finds_nothing_in_the_container_file():
    assert check("hadolint", str(DEPLOY / "Containerfile")) == ""


def test_the_image_has_all_that_the_server_imports_and_nothing_private(tmp_path):
    for path in ROOT.iterdir():
        if is_in_the_image(path.name):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, tmp_path / path.name)
    names = {path.name for path in tmp_path.iterdir()}
    assert names.isdisjoint({".git", ".venv", "runs", "tests", "shared"})
    modules = "serve, serving.app, serving.server, serving.service, inference.loading"
    done = subprocess.run(
        [sys.executable, "-c", f"import {modules}"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def is_in_the_image(name: str) -> bool:
    """Return whether a file in the root is sent to whoever builds the image: the last line of
    .dockerignore that matches it decides."""
    is_in = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatch.fnmatch(name, line.lstrip("!")):
            is_in = line.startswith("!")
    return is_in


def test_the_image_starts_with_flags_that_there_are():
    entry, arguments = image_command()
    flags = flags_of([*entry, *arguments])
    assert flags["host"] == "0.0.0.0" and flags["token_file"]
    assert f"EXPOSE {flags['port']}" in read("Containerfile")


# ---- Kubernetes


def test_kubernetes_knows_every_key():
    check(
        "kubernetes-validate", "--strict", "-k", KUBERNETES_VERSION, str(DEPLOY / "kubernetes.yaml")
    )


def test_a_misspelt_key_would_be_found(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(read("kubernetes.yaml").replace("failureThreshold", "failureTreshold"))
    with pytest.raises(AssertionError, match="failureTreshold"):
        check("kubernetes-validate", "--strict", "-k", KUBERNETES_VERSION, str(path))


def test_kubernetes_waits_until_the_server_has_finished():
    pod = resources()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    entry, _ = image_command()
    flags = flags_of([*entry, *container["args"]])
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    drained = flags["overrides"]["serve.drain_seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + float(drained)
    assert [port["containerPort"] for port in container["ports"]] == [flags["port"]]


def test_every_replica_has_one_accelerator_and_its_number_follows_the_queue():
    (container,) = resources()["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (metric,) = resources()["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert f'"{metric["pods"]["metric"]["name"]}"' in (ROOT / "serving/service.py").read_text()


# ---- Load balancers


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A folder with a certificate of its own, and its key."""
    names = ["-keyout", str(tmp_path / "tls.key"), "-out", str(tmp_path / "tls.crt")]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subject = ["-subj", "/CN=models.example", "-days", "2"]
    check("openssl", "req", "-x509", "-nodes", *curve, *subject, *names)
    both = (tmp_path / "tls.crt").read_text() + (tmp_path / "tls.key").read_text()
    (tmp_path / "tls.pem").write_text(both)
    return tmp_path


def test_nginx_reads_its_configuration(certificate):
    site = certificate / "triform.conf"
    site.write_text(read("nginx.conf").replace("/etc/triform", str(certificate)))
    whole = certificate / "nginx.conf"
    pid, log = f"pid {certificate}/pid;", "access_log off;"
    whole.write_text(f"{pid} events {{}} http {{ {log} include {site}; }}\n")
    said = check("nginx", "-t", "-e", "stderr", "-p", str(certificate), "-c", str(whole))
    assert "warn" not in said


def test_haproxy_reads_its_configuration(certificate):
    path = certificate / "haproxy.cfg"
    path.write_text(read("haproxy.cfg").replace("/etc/triform", str(certificate)))
    said = check("haproxy", "-c", "-f", str(path))
    assert "WARNING" not in said


def test_a_refused_request_takes_no_server_out_of_nginx():
    assert re.findall(r"^ *server \S+ (.*);", read("nginx.conf"), re.M) == ["max_fails=0"] * 2


def test_load_balancers_wait_longer_than_the_server_and_take_what_it_takes():
    limits = Serve()
    (nginx,) = re.findall(r"proxy_read_timeout (\d+)s", read("nginx.conf"))
    haproxy = re.findall(r"timeout (?:server|client) (\d+)s", read("haproxy.cfg"))
    assert min(map(int, (nginx, *haproxy))) > limits.answer_seconds
    (idle,) = re.findall(r"keepalive_timeout (\d+)s", read("nginx.conf"))
    assert int(idle) < limits.keep_alive_seconds
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m", read("nginx.conf"))
    (size,) = re.findall(r"content-length\) gt (\d+)", read("haproxy.cfg"))
    assert int(megabytes) << 20 == int(size) > limits.max_upload_bytes
