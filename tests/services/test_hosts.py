"""Configurations of hosts, by their own tools; two replicas behind a real balancer, one of which dies under load."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import suisen as su
from suisen.client import Client, Refused
from tests.services.brokers import Served
from tests.services.programs import free_port, program, started

DEPLOY = Path(__file__).parents[2] / "deploy"
USERS = [str(one) for one in range(1, 61)]
CLIENTS, SECONDS = 8, 8.0


@pytest.fixture(scope="module")
def rec(tmp_path_factory):
    return su.Recommender(su.EASE()).fit(su.Dataset.of(su.World(users=60, items=40).generate().log))


@pytest.fixture(scope="module")
def bundle(rec, tmp_path_factory):
    place = tmp_path_factory.mktemp("bundle") / "bundle"
    rec.save(place)
    return place


@pytest.fixture
def replicas(bundle, tmp_path):
    made = [Served(bundle, tmp_path / name) for name in ("one", "two")]
    for one in made:
        one.start()
    yield made
    for one in made:
        one.program.kill()


def haproxy(replicas, port):
    """What haproxy is started with."""
    return {
        "BIND": f"127.0.0.1:{port}",
        "REPLICA_1": f"127.0.0.1:{replicas[0].port}",
        "REPLICA_2": f"127.0.0.1:{replicas[1].port}",
    }


# -- configurations by their own tools ---------------------------------------------------------------------------------


def told(*words, **env):
    """What a tool says, and whether it is content."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **env})
    return done.returncode, done.stdout + done.stderr


def test_haproxy_takes_its_configuration():
    ports = {"BIND": "127.0.0.1:18080", "REPLICA_1": "127.0.0.1:18001", "REPLICA_2": "127.0.0.1:18002"}
    code, said = told(program("haproxy"), "-c", "-f", str(DEPLOY / "haproxy" / "haproxy.cfg"), **ports)
    assert code == 0, said
    assert "[WARNING]" not in said


def nginx(folder, conf):
    """A whole configuration around the file for conf.d."""
    whole = folder / "nginx.conf"
    places = "".join(
        f"{name}_temp_path {folder / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole.write_text(
        f"daemon off; pid {folder / 'pid'}; error_log {folder / 'errors'}; events {{}}\n"
        f"http {{ access_log off; {places} include {conf}; }}\n"
    )
    return [program("nginx"), "-c", str(whole), "-p", str(folder), "-e", str(folder / "errors")]


def test_nginx_takes_its_configuration(tmp_path):
    code, said = told(*nginx(tmp_path, DEPLOY / "nginx" / "suisen.conf"), "-t")
    assert code == 0, said
    assert "[warn]" not in said


def test_systemd_takes_the_unit(tmp_path):
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze IS NOT INSTALLED: nothing is shown about the unit")
    text = (DEPLOY / "systemd" / "suisen.service").read_text()
    (tmp_path / "suisen.service").write_text(text.replace("/opt/suisen/bin/suisen", "/bin/true"))
    code, said = told(verify, "verify", "--man=no", str(tmp_path / "suisen.service"))
    assert code == 0, said
    assert "suisen.service" not in said


def test_manifests_are_yaml_that_says_nothing_twice():
    """yamllint refuses keys that stand twice, which YAML's readers pass over."""
    rules = "{extends: relaxed, rules: {line-length: {max: 180}, key-duplicates: enable}}"
    files = [DEPLOY / "compose.yaml", DEPLOY / "kubernetes", DEPLOY / "prometheus", DEPLOY / "grafana"]
    code, said = told(program("yamllint"), "--strict", "-d", rules, *map(str, files))
    assert code == 0, said


def manifests():
    """The objects of Kubernetes."""
    yaml = pytest.importorskip("yaml")
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes" / "suisen.yaml").read_text())}


def test_a_pod_has_the_time_that_the_server_takes_to_drain():
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    flags = dict(one.lstrip("-").split("=", 1) for one in container["args"])
    sleep = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > sleep + float(flags["drain-s"]) + float(flags["grace-s"])


def test_compose_gives_the_server_the_time_that_it_takes_to_drain():
    yaml = pytest.importorskip("yaml")
    from suisen.serving.settings import Settings

    usual = Settings()
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name in ("suisen-1", "suisen-2"):
        assert float(services[name]["stop_grace_period"].rstrip("s")) > usual.drain_s + usual.grace_s
        assert services[name]["read_only"] is True


def test_flags_of_manifests_are_flags_of_the_server():
    from suisen.cli.serve import serve

    yaml = pytest.importorskip("yaml")
    known = {flag for option in serve.params for flag in option.opts}
    given = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
    given = given + yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["suisen-1"]["command"]
    given += [word for word in (DEPLOY / "container" / "Dockerfile").read_text().split('"') if word.startswith("--")]
    given += [word for word in (DEPLOY / "systemd" / "suisen.service").read_text().split() if word.startswith("--w")]
    named = {
        one.partition("=")[0] for one in given if not one.startswith(("--interval", "--timeout", "--start", "--ret"))
    }
    assert named <= known, named - known


# -- two replicas behind a balancer ------------------------------------------------------------------------------------


def ask_on(url, until, lists, found, acknowledged, seed):
    """A client that asks and tells until the time is over; what it saw goes into ``found``."""
    rng = random.Random(seed)
    with Client(url, deadline_s=20.0) as client:
        number = 0
        while time.monotonic() < until:
            user = rng.choice(USERS)
            try:
                if rng.random() < 0.3:
                    number += 1
                    name = f"e{seed}-{number}"
                    event = {"user_id": f"new{seed}", "item_id": "3", "event": "view", "event_id": name}
                    client.events([event])
                    acknowledged.append(name)
                    found["event"] += 1
                    continue
                items = [str(item.item_id) for item in client.recommend_user(user, k=5, precise=True).items]
                found["right" if items == lists[user] else f"WRONG {user}: {items}"] += 1
            except Refused as refused:
                found["refused" if refused.status in (429, 503) else f"REFUSED {refused}"] += 1
            except Exception as error:
                found[f"NO ANSWER {error}"] += 1


def under_load(url, rec, disturb):
    """What clients saw while the replicas were disturbed, and the events that were acknowledged."""
    frame = rec.recommend(users=USERS, k=5)
    lists = {user: frame.filter(frame["user_id"].cast(str) == user)["item_id"].cast(str).to_list() for user in USERS}
    found, acknowledged = Counter(), []
    until = time.monotonic() + SECONDS
    threads = [
        threading.Thread(target=ask_on, args=(url, until, lists, found, acknowledged, seed)) for seed in range(CLIENTS)
    ]
    for one in threads:
        one.start()
    disturb()
    for one in threads:
        one.join()
    return found, acknowledged


def logged(replicas):
    """Ids of events, by how often they stand in the logs of both."""
    found = Counter()
    for one in replicas:
        for path in (one.folder / "events").glob("events*.jsonl"):
            found.update(json.loads(line)["event_id"] for line in path.read_text().splitlines())
    return found


def disturbance(replicas, port):
    """One replica dies at once, and comes back."""

    def act():
        time.sleep(2.0)
        replicas[0].program.kill()
        time.sleep(2.5)
        replicas[0].start()

    return act


def assert_good(found, acknowledged, replicas):
    """Each request was answered or refused, none wrongly; each acknowledged event is there."""
    bad = {what: count for what, count in found.items() if what not in ("right", "refused", "event")}
    assert not bad
    assert found["right"] > 100
    assert found["refused"] <= 0.05 * found["right"]
    ids = logged(replicas)
    assert set(acknowledged) <= set(ids)
    assert len(acknowledged) == len(set(acknowledged)) == found["event"]
    assert all(replica.get("/health/ready")[0] == 200 for replica in replicas)


@pytest.mark.slow
def test_a_replica_that_is_killed_behind_haproxy_costs_no_answer(rec, replicas, tmp_path):
    port = free_port()
    words = [program("haproxy"), "-f", str(DEPLOY / "haproxy" / "haproxy.cfg")]
    with started(words, port, tmp_path / "haproxy.log", haproxy(replicas, port)):
        time.sleep(1.5)  # both are up once they were asked twice
        found, acknowledged = under_load(f"http://127.0.0.1:{port}", rec, disturbance(replicas, port))
        assert_good(found, acknowledged, replicas)
        time.sleep(2.0)
        before = [one.metric("suisen_requests_total") for one in replicas]
        with Client(f"http://127.0.0.1:{port}") as client:
            for _ in range(40):
                client.recommend_user("7")
        after = [one.metric("suisen_requests_total") for one in replicas]
    assert all(later > earlier for earlier, later in zip(before, after)), "the one that came back is asked again"


@pytest.mark.slow
def test_a_replica_that_is_killed_behind_nginx_costs_no_answer(rec, replicas, tmp_path):
    port = free_port()
    text = (DEPLOY / "nginx" / "suisen.conf").read_text().replace("8080", str(port))
    conf = tmp_path / "suisen.conf"
    conf.write_text(
        text.replace("127.0.0.1:8001", f"127.0.0.1:{replicas[0].port}").replace(
            "127.0.0.1:8002", f"127.0.0.1:{replicas[1].port}"
        )
    )
    with started(nginx(tmp_path, conf), port, tmp_path / "nginx.log"):
        found, acknowledged = under_load(f"http://127.0.0.1:{port}", rec, disturbance(replicas, port))
    assert_good(found, acknowledged, replicas)
