"""The files in deploy/: they say what they must, and the image's command works in a clean folder.

What nginx and HAProxy do with theirs is in `test_deploy_proxies.py`.
"""

from __future__ import annotations

import asyncio
import configparser
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.config import load_settings
from router.config.settings import ServerSettings
from router.draining import DELAY_SECONDS
from tests.brain import Brain, says
from tests.eyes import Eyes
from tests.live import (
    DEADLINE,
    body_of,
    soon,
    user,
)
from tests.proxies import DEPLOY

pytestmark = [pytest.mark.anyio, pytest.mark.live]

ROOT = DEPLOY.parent


def yaml_documents(path: Path) -> list[dict[str, Any]]:
    """PyYAML has no types of its own, and comes with what reads pictures."""
    yaml: Any = importlib.import_module("yaml")
    return list(yaml.safe_load_all(path.read_text()))


# Files


def test_grace_is_longer_than_draining_everywhere() -> None:
    drain = ServerSettings().drain_seconds
    assert tomllib.loads((DEPLOY / "config.toml").read_text())["server"]["drain_seconds"] == drain
    pod = deployment("chiasm")["spec"]["template"]["spec"]
    (chiasm,) = pod["containers"]
    before = int(chiasm["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > drain + before
    assert seconds(compose()["services"]["chiasm"]["stop_grace_period"]) > drain
    assert seconds(unit()["Service"]["TimeoutStopSec"]) > drain


def test_balancers_ask_often_enough_to_see_the_end_coming() -> None:
    """`/readyz` says so for `DELAY_SECONDS` before the door closes."""
    (chiasm,) = deployment("chiasm")["spec"]["template"]["spec"]["containers"]
    probe = chiasm["readinessProbe"]
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) < DELAY_SECONDS
    check = re.search(r"check inter (\d+)s fall (\d+)", (DEPLOY / "haproxy" / "haproxy.cfg").read_text())
    assert check is not None
    assert int(check[1]) * int(check[2]) < DELAY_SECONDS


def test_bodies_pass_that_chiasm_takes() -> None:
    megabytes = int(ServerSettings().max_body_mib)
    assert f"client_max_body_size {megabytes + 1}m;" in (DEPLOY / "nginx" / "chiasm.conf").read_text()
    (ingress,) = yaml_documents(DEPLOY / "kubernetes" / "ingress.yaml")
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == f"{megabytes + 1}m"
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"


def test_every_container_is_shut_in() -> None:
    for name in ("chiasm", "chiasm-redis"):
        pod = deployment(name)["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        written = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/data" in written
    for name in ("chiasm", "redis"):
        service = compose()["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]


def test_two_replicas_share_a_redis_that_only_they_reach() -> None:
    chiasm = deployment("chiasm")
    assert chiasm["spec"]["replicas"] == 2
    (config,) = [d for d in kubernetes() if d["kind"] == "ConfigMap"]
    assert config["data"]["STORE_KIND"] == "redis"
    services = {d["metadata"]["name"] for d in kubernetes() if d["kind"] == "Service"}
    (container,) = chiasm["spec"]["template"]["spec"]["containers"]
    (url,) = [entry["value"] for entry in container["env"] if entry["name"] == "STORE_URL"]
    assert re.search(r"@([^:]+):6379", url)[1] in services  # type: ignore[index]
    (policy,) = [d for d in kubernetes() if d["kind"] == "NetworkPolicy"]
    assert policy["spec"]["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"app": "chiasm"}}}]


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_compose_profiles_are_whole_and_their_configuration_is_one_that_chiasm_takes(
    profile: str, tmp_path: Path
) -> None:
    services = {
        name: service for name, service in compose().get("services", {}).items() if profile in service["profiles"]
    }
    names = {*services, *(alias for s in services.values() for alias in aliases(s))}
    assert {"chiasm", "redis", "brain"} <= names
    variables = {"CHIASM_API_KEY": "k", **(env_file(DEPLOY / "cpu.env") if profile == "cpu" else {})}
    environ = {name: filled(value, variables) for name, value in services["chiasm"]["environment"].items()}
    settings = load_settings(DEPLOY / "config.toml", environ=environ, cwd=tmp_path, home=tmp_path).settings
    assert (settings.vision[0].kind == "ocr") == (profile == "cpu")
    for url in (settings.text[0].base_url, *([settings.vision[0].base_url] if profile == "gpu" else [])):
        assert httpx.URL(url).host in names
    assert settings.store.kind == "redis"
    assert services["chiasm"]["depends_on"] == {"redis": {"condition": "service_healthy"}}


def test_kubernetes_variables_are_a_configuration_that_chiasm_takes(tmp_path: Path) -> None:
    (config,) = [d for d in kubernetes() if d["kind"] == "ConfigMap"]
    environ = {**config["data"], "CHIASM_API_KEY": "k", "STORE_URL": "redis://:p@chiasm-redis:6379/0"}
    settings = load_settings(DEPLOY / "config.toml", environ=environ, cwd=tmp_path, home=tmp_path).settings
    assert settings.store.kind == "redis"
    assert not settings.server.admin_key.get_secret_value()


def test_without_a_key_the_image_does_not_start(tmp_path: Path) -> None:
    from router.config import ConfigError

    with pytest.raises(ConfigError, match="CHIASM_API_KEY"):
        load_settings(DEPLOY / "config.toml", environ={}, cwd=tmp_path, home=tmp_path)


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = (DEPLOY / "chiasm.service").read_text()
    assert unit()["Service"]["DynamicUser"] == "yes"
    analyze = shutil.which("systemd-analyze")
    if analyze is None:  # what else can be said of it is said above
        return
    # Of the path alone it cannot know here.
    copy = tmp_path / "chiasm.service"
    copy.write_text(text.replace("/opt/chiasm/bin/chiasm", str(Path(sys.executable).with_name("chiasm"))))
    ran = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True, check=False)
    complaints = [line for line in (ran.stdout + ran.stderr).splitlines() if "chiasm.service" in line]
    assert not complaints


# The image


def instructions() -> Iterator[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            yield name, rest


def last_stage() -> dict[str, str]:
    """The last of each instruction; variables of all `ENV` together under that name."""
    found: dict[str, str] = {}
    for name, rest in instructions():
        if name == "FROM":
            found = {}
        found[name] = f"{found.get('ENV', '')} {rest}" if name == "ENV" else rest
    return found


def test_the_image_runs_as_nobody_with_a_health_check() -> None:
    stage = last_stage()
    assert stage["USER"] == "10001:10001"
    assert stage["WORKDIR"] == stage["VOLUME"] == "/data"
    assert '"--alive"' in stage["HEALTHCHECK"]
    assert stage["STOPSIGNAL"] == "SIGTERM"


def test_everything_that_the_image_copies_is_there_and_let_through() -> None:
    let_in = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in let_in


def test_what_the_image_leaves_out_is_needed_for_reading_pictures_only(tmp_path: Path) -> None:
    runs = " ".join(rest for name, rest in instructions() if name == "RUN")
    left_out = re.search(r"uninstall -y\s+(rapidocr[^;]*)", runs)
    assert left_out is not None
    names = left_out[1].split()
    locked = (ROOT / "requirements" / "run.lock").read_text()
    assert all(re.search(rf"^{name}==", locked, re.MULTILINE) for name in names)
    modules = {"opencv-python-headless": "cv2", "pyyaml": "yaml", "protobuf": "google"}
    blocked = [modules.get(name, name.replace("-", "_")) for name in names]
    subprocess.run([sys.executable, "-c", _WITHOUT, *blocked], cwd=tmp_path, check=True)


_WITHOUT = """
import sys
from pathlib import Path
for name in sys.argv[1:]:
    sys.modules[name] = None
from router.app import create_app
from router.config import Flags, load_settings
flags, environ = Flags(text="http://127.0.0.1/v1", vision="http://127.0.0.1/v1"), {"CHIASM_STORE__KIND": "memory"}
create_app(load_settings(flags=flags, environ=environ, cwd=Path.cwd(), home=Path.cwd()).settings)
"""


def env_of(stage: dict[str, str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(stage["ENV"]))


def installed(folder: Path) -> Path:
    """The site folder of what the image installs: from a wheel, and not from here."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


_RUN = """
import router, sys
assert router.__file__.startswith(sys.argv.pop(1)), router.__file__
from router.cli import main
main()
"""


async def test_the_command_of_the_image_works_in_a_clean_folder(tmp_path: Path) -> None:
    """The same words, variables and configuration; only where things lie differs, and the port."""
    stage = last_stage()
    data, etc = tmp_path / "data", tmp_path / "etc"
    data.mkdir(mode=0o700)
    etc.mkdir()
    (etc / "config.toml").write_text((DEPLOY / "config.toml").read_text().replace('path = "/data"', f'path = "{data}"'))
    words = [*json.loads(stage["ENTRYPOINT"]), *json.loads(stage["CMD"])]
    assert words[0] == "chiasm"
    command = [word.replace("/etc/chiasm", str(etc)) for word in words[1:]]
    site = await asyncio.to_thread(installed, tmp_path)
    async with Brain() as brain, Eyes() as eyes:
        brain.answers = lambda asked: says("Hello.")
        environ = {
            **{name: value for name, value in env_of(stage).items() if name.startswith("PYTHON")},
            "PATH": os.environ["PATH"],
            "HOME": str(data),
            "PYTHONPATH": str(site),
            "CHIASM_API_KEY": "a-key",
            "CHIASM_SERVER__PORT": "0",
            "TEXT_URL": brain.url,
            "VISION_URL": eyes.url,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _RUN,
            str(site),
            *command,
            cwd=data,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            greeting = (await soon(process.stdout.readline())).decode()
            port = re.search(r":(\d+)/v1", greeting)
            assert port is not None, greeting
            assert await exit_code_of_ready(port[1]) == 0
            assert await exit_code_of_ready(port[1], "--alive") == 0
            url = f"http://127.0.0.1:{port[1]}/v1/chat/completions"
            async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE) as client:
                body = body_of([user("Hi.")], {})
                assert (await client.post(url, json=body)).status_code == 401
                answer = await client.post(url, json=body, headers={"authorization": "Bearer a-key"})
                assert answer.json()["choices"][0]["message"]["content"] == "Hello."
            await brain.stop_listening()
            for connection in list(brain.open_connections):
                connection.reset()
            async with asyncio.timeout(DEADLINE):
                while await exit_code_of_ready(port[1]) == 0:
                    pass
            assert await exit_code_of_ready(port[1], "--alive") == 0
        finally:
            process.terminate()
            await process.communicate()
    assert await exit_code_of_ready(port[1]) == 1, "nobody is there any more"


async def exit_code_of_ready(port: str, *arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(DEPLOY / "ready.py"),
        *arguments,
        env={"CHIASM_SERVER__PORT": port},
        stdout=asyncio.subprocess.DEVNULL,
    )
    return int(await soon(process.wait()))


# What stands in the files


def compose() -> dict[str, Any]:
    (document,) = yaml_documents(DEPLOY / "compose.yaml")
    return document


def kubernetes() -> list[dict[str, Any]]:
    return [d for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for d in yaml_documents(path)]


def deployment(name: str) -> dict[str, Any]:
    (found,) = [d for d in kubernetes() if d["kind"] == "Deployment" and d["metadata"]["name"] == name]
    return found


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / "chiasm.service").read_text())
    return parser


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def aliases(service: dict[str, Any]) -> list[str]:
    networks = service.get("networks")
    return list(networks["default"].get("aliases", [])) if isinstance(networks, dict) else []


def env_file(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def filled(value: str, variables: Mapping[str, str]) -> str:
    """As compose fills variables in: `${NAME:-default}`, and `${NAME:?what is wrong}`."""

    def of(match: re.Match[str]) -> str:
        return variables.get(match["name"]) or (match["rest"] if match["kind"] == "-" else "")

    return re.sub(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}", of, value)
