"""deploy/fluent: what both collectors follow and send is what the server writes and ``from-log`` reads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from suisen.data.kafka import LISTS
from suisen.serving.service import Service
from suisen.serving.settings import Settings
from tests.services.programs import program

FOLDER = Path(__file__).parents[2] / "deploy" / "fluent"
LOGS = "${SUISEN_LOGS}/"


def bit():
    """Inputs by tag, outputs by what they match, parsers by name."""
    yaml = pytest.importorskip("yaml", reason="PYYAML IS NOT INSTALLED: fluent-bit.yaml is not read")
    found = yaml.safe_load((FOLDER / "fluent-bit.yaml").read_text(encoding="utf-8"))
    inputs = {each["tag"]: each for each in found["pipeline"]["inputs"]}
    outputs = {each["match"]: each for each in found["pipeline"]["outputs"]}
    return inputs, outputs, {each["name"]: each for each in found["parsers"]}


def fluentd():
    """Sections: (name, argument, settings, sections)."""
    text = (FOLDER / "fluentd.conf").read_text(encoding="utf-8")
    root = ("", "", {}, [])
    open_sections = [root]
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        if closed := re.fullmatch(r"</(\w+)>", line):
            assert open_sections.pop()[0] == closed[1]
        elif opened := re.fullmatch(r"<(\w+)\s*(.*)>", line):
            section = (opened[1], opened[2], {}, [])
            open_sections[-1][3].append(section)
            open_sections.append(section)
        else:
            name, _, value = line.partition(" ")
            open_sections[-1][2][name] = value.strip()
    assert open_sections == [root]
    return root[3]


def test_fluent_bit_follows_the_files_that_the_server_writes(tmp_path):
    inputs, outputs, parsers = bit()
    journal = Service(Settings(log_dir=tmp_path, impressions=True)).journal
    for name, log in journal._logs.items():
        one = inputs[f"suisen.{name}"]
        assert one["path"] == LOGS + log.path.name
        assert (one["read_from_head"], one["parser"], one["storage.type"]) == (True, "suisen", "filesystem")
        assert outputs[f"suisen.{name}"]["topics"] == "suisen" + (LISTS if name == "impressions" else "")
        assert outputs[f"suisen.{name}"]["retry_limit"] == "no_limits"
    assert set(inputs) == set(outputs)
    assert len({one["db"] for one in inputs.values()}) == len(inputs)
    assert parsers == {"suisen": {"name": "suisen", "format": "json"}}  # a time_key would take the time away


def test_fluentd_follows_the_files_that_the_server_writes(tmp_path):
    sections = fluentd()
    sources = {settings["tag"]: (settings, inner) for name, _, settings, inner in sections if name == "source"}
    matches = {tag: (settings, inner) for name, tag, settings, inner in sections if name == "match"}
    assert set(sources) == set(matches)
    journal = Service(Settings(log_dir=tmp_path, impressions=True)).journal
    for name, log in journal._logs.items():
        settings, inner = sources[f"suisen.{name}"]
        assert settings["path"] == f"\"#{{ENV['SUISEN_LOGS']}}/{log.path.name}\""
        ((_, _, parse, _),) = inner
        assert (parse["@type"], parse["keep_time_key"]) == ("json", "true")
        settings, inner = matches[f"suisen.{name}"]
        assert settings["default_topic"] == "suisen" + (LISTS if name == "impressions" else "")
        assert settings["required_acks"] == "-1"
        buffer = next(each[2] for each in inner if each[0] == "buffer")
        assert (buffer["@type"], buffer["retry_forever"], buffer["overflow_action"]) == ("file", "true", "block")


@pytest.mark.parametrize(("name", "file"), [("fluent-bit", "fluent-bit.yaml"), ("fluentd", "fluentd.conf")])
def test_each_collector_accepts_its_file(name, file, tmp_path):
    words = [program(name), "--dry-run", "-c", str(FOLDER / file)]
    env = {"SUISEN_LOGS": str(tmp_path), "KAFKA_BROKERS": "127.0.0.1:9092"}
    done = subprocess.run(words, env=env, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
