"""``laser-peft serve``, as a process that is asked over a socket and told to stop."""

import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from conftest import run_command


def test_a_folder_that_is_not_there_is_said_and_ends_it(tmp_path):
    result = run_command("serve", tmp_path / "none", "--port", 0)
    assert result.exit_code == 2
    assert "laser-peft: there is no folder" in result.output


@pytest.fixture
def server(trained, tmp_path):
    command = [sys.executable, "-m", "laser_peft", "serve", str(trained[0] / "recommender")]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", "0", "--max-batch-size", "1000", "--max-wait-ms", "2000"],
            stderr=file,
            stdout=file,
        )
    while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    yield process, found[1]
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to handle")
def test_what_is_in_flight_is_answered_when_it_is_told_to_stop(server):
    process, address = server
    with httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/health").status_code == 200
        while client.get("/ready").status_code != 200:
            time.sleep(0.05)
        statuses = []

        def ask():
            body = {"histories": [["i1", "i2", "i3"]] * 64}
            statuses.append(httpx.post(f"{address}/recommend", json=body, timeout=60).status_code)

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for one in asking:
            one.start()
        while "waiting_histories 256.0" not in client.get("/metrics").text:
            assert not statuses  # the model waits two seconds for more
        process.send_signal(signal.SIGTERM)
        for one in asking:
            one.join()
    assert statuses == [200] * 4
    assert process.wait(20) in (0, -signal.SIGTERM)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")
