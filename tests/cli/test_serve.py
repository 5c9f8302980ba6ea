import json
import os
import signal
import subprocess
import sys
import urllib.request

from tests.cli.conftest import call


def test_a_run_is_served_and_drained(run_folder):
    command = [sys.executable, "-m", "suisen.cli.main", "serve", str(run_folder), "--port", "0", "--drain-s", "0"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        url = next(line.split()[2] for line in child.stderr if line.startswith("ready on "))
        request = urllib.request.Request(f"{url}/v1/recommend", b'{"queries": [{"history": ["A-1", "A-2"]}], "k": 3}')
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request) as answer:
            served = json.load(answer)["answers"][0]["items"]
        printed = json.loads(call("recommend", run_folder, "--history", "A-1,A-2", "-k", "3", "--json").stdout)
        assert [i["item_id"] for i in served] == [i["item_id"] for i in printed["answers"][0]["items"]]
    finally:
        child.send_signal(signal.SIGTERM)
        child.stderr.read()
        child.stderr.close()
    assert child.wait(timeout=60) == 0
