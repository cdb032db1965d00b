"""Reaching a cluster, or starting one, or saying why not."""

import json
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mdp_core.api import StageError
from mdp_ray.cluster import Node, connect
from mdp_ray.executor import cpus_of_fit

LOCAL = """
import json, socket, signal, sys
from pathlib import Path
from mdp_ray.executor import RayExecutor
from mdp_ray.settings import RayConfig
import ray_work as work
class Listener:
    def progress(self, *_): pass
    def note(self, *_): pass
    def warn(self, *_): pass
signal.signal(signal.SIGTERM, own := lambda *_: None)
folder = Path(sys.argv[1])
executor = RayExecutor(RayConfig(workers=1))
executor.run([work.task("square", folder, n, kill=0, times=1) for n in range(2)], folder / "log", Listener())
import ray
(node,) = ray.nodes()
ports = [node["NodeManagerPort"], node["ObjectManagerPort"], int(ray.get_runtime_context().gcs_address.rpartition(":")[2])]
outward = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
outward.connect(("192.0.2.1", 9))
address = outward.getsockname()[0]
reached = [p for p in ports if socket.socket().connect_ex((address, p)) == 0] if not address.startswith("127.") else []
kept = signal.getsignal(signal.SIGTERM) is own
executor.close()
gone = [p for p in ports if socket.socket().connect_ex(("127.0.0.1", p)) != 0]
(folder / "told.json").write_text(json.dumps([node["NodeManagerAddress"], reached, len(ports) - len(gone), kept]))
"""


@pytest.mark.slow
def test_a_local_cluster_is_quiet_speaks_on_the_loopback_alone_and_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCAL, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.txt").read_text() == "1"
    assert json.loads((tmp_path / "told.json").read_text()) == ["127.0.0.1", [], 0, True]
    assert done.stdout + done.stderr == "", "neither Ray's news nor what it says of the killed worker"


class _Parrot(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"HTTP/1.0 400 Bad request\r\n\r\n")


def test_addresses_without_a_cluster() -> None:
    with socket.socket() as closed, socketserver.TCPServer(("127.0.0.1", 0), _Parrot) as parrot:
        closed.bind(("127.0.0.1", 0))
        threading.Thread(target=parrot.serve_forever, daemon=True).start()
        refused, other = (f"127.0.0.1:{one.getsockname()[1]}" for one in (closed, parrot.socket))
        before, handler = time.monotonic(), signal.getsignal(signal.SIGTERM)
        for address, message in (
            (refused, f"there is no Ray cluster at {refused}: Connection refused"),
            (other, f"what listens at {other} is not Ray"),
            ("nonsense", "executor.address 'nonsense' is not an address"),
            ("here:there", "executor.address 'here:there' is not an address"),
            ("ray://127.0.0.1:10001", "connections through the Ray Client are not supported"),
        ):
            with pytest.raises(StageError, match=message) as caught:
                connect(address, None)
            assert caught.value.hint
        assert time.monotonic() - before < 15
        assert signal.getsignal(signal.SIGTERM) is handler
        parrot.shutdown()


def test_ray_is_not_installed(tmp_path: Path, toy: Path) -> None:
    def mdp(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = "import sys; sys.modules['ray'] = None; from mdp_core.cli.main import main; main()"
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)

    listed = mdp("plugins", "list")
    assert listed.returncode == 0
    assert "ray" in listed.stdout
    done = mdp("run", str(toy.with_name("toy.yaml")), "--plugin", str(toy), "--executor", "ray")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "pip install 'mdp-platform[ray]'" in done.stderr


@pytest.mark.parametrize(
    ("machines", "gpus", "processes", "expected"),
    [
        ([Node(8, 0)], 0, 1, 8),
        ([Node(8, 0)], 0, 3, 2),
        ([Node(8, 0), Node(4, 0)], 0, 2, 8),
        ([Node(32, 4), Node(64, 0)], 1, 1, 8),
        ([Node(32, 4), Node(16, 1)], 1, 1, 16),
        ([Node(1, 0)], 0, 5, 1),
        ([], 0, 1, 1),
    ],
)
def test_cpus_of_a_training(machines: list[Node], gpus: float, processes: int, expected: int) -> None:
    assert cpus_of_fit(machines, gpus, processes) == expected


def test_how_many_workers_fit() -> None:
    assert Node(8, 2).holds(1, 0) == 8
    assert Node(8, 2).holds(3, 0) == 2
    assert Node(8, 2).holds(1, 0.5) == 4
    assert Node(8, 0).holds(1, 1) == 0
