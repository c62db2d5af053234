"""What a decision for a gateway costs: Check beside Verify, and requests through Envoy and nginx with and without Keyward.

The gateways are those that `tests/run --install` installs, with the files under `config/gateways/`. Needs wrk.
"""

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from .build import ROOT
from .measure import in_turns, median, ratio
from .servers import Keyward, Postgres, seeded, settle

CHECK = "/envoy.service.auth.v3.Authorization/Check"
# A CheckResponse that lets a request pass: a status without fields, and an OkHttpResponse.
PASSES = "0a001a"
# What a Check may cost, in server CPU of a Verify.
MAX_CHECK_CPU = 1.3
CONNECTIONS = 32


def varint(number):
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def field(number, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def check_request(secret):
    """What Envoy sends about a request of curl."""
    headers = {
        ":authority": "api.example", ":method": "GET", ":path": "/api/build/b1?orgId=acme", ":scheme": "https",
        "accept": "*/*", "authorization": f"Bearer {secret}", "user-agent": "curl/8.5.0",
        "x-envoy-internal": "true", "x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https",
        "x-request-id": "0f3c3ad4-6c5b-4a1e-9c3e-0f0a4b5d6e7f",
    }
    entries = b"".join(field(3, field(1, name) + field(2, value)) for name, value in headers.items())
    http = field(2, "GET") + entries + field(4, headers[":path"]) + field(5, "api.example") + field(10, "HTTP/1.1")
    peer = field(1, field(1, field(2, "203.0.113.7")))
    extensions = field(10, field(1, "keyspace") + field(2, "norrix"))
    return field(1, field(1, peer) + field(4, field(2, http)) + extensions)


def secrets(bodies):
    """The secret of each VerifyRequest in a file of frames: its first field."""
    data = Path(bodies).read_bytes()
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at + 1 : at + 5], "big")
        message = data[at + 5 : at + 5 + length]
        assert message[0] == 0x0A, "the first field is the secret"
        yield message[2 : 2 + message[1]].decode()
        at += 5 + length


def check_bodies(workspace, bodies):
    out = workspace.new("check")
    with open(out, "wb") as file:
        for secret in secrets(bodies):
            message = check_request(secret)
            file.write(b"\0" + len(message).to_bytes(4, "big") + message)
    return out


def check(workspace, driver, binaries, arguments, report):
    """Server CPU of a Check beside that of a unary Verify, of one server in turns."""
    postgres = Postgres(workspace)
    name, bodies, bearer = seeded(workspace, postgres, binaries, arguments.keys)
    checks = check_bodies(workspace, bodies)
    server = Keyward(workspace, binaries.keyward, f"{postgres.url}/{name}", bearer=bearer)
    driver.warm(server, bodies)
    settle()
    rows, targets = [], []
    for shape in (tuple(map(int, shape.split("x"))) for shape in arguments.shapes):
        runs = {
            "Verify": lambda: driver.unary(server, bodies, shape),
            "Check": lambda: driver.unary(server, checks, shape, path=CHECK, expect=PASSES),
        }
        results = in_turns(arguments.rounds, runs, report.about(part="check", shape=f"{shape[0]}x{shape[1]}"))
        cost = ratio(results["Check"], results["Verify"], "server_cpu_us")
        for label, found in results.items():
            figures = (median(found, name) for name in ("rate", "server_cpu_us", "p50_us", "p99_us"))
            rows.append([f"{shape[0]} x {shape[1]}", label, *figures, cost if label == "Check" else 1.0])
        targets.append((f"{shape[0]} x {shape[1]}: CPU of a Check, in Verifies", cost))
    report.table(["shape", "call", "calls/s", "CPU µs/call", "p50 µs", "p99 µs", "CPU/Verify's"], rows)
    for what, cost in targets:
        report.target(what, cost, cost <= MAX_CHECK_CPU, f"at most {MAX_CHECK_CPU}")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Proxy:
    """A gateway, or the upstream behind it, on the cores of the server."""

    def __init__(self, workspace, command, port, environment=None):
        self.port = port
        self.log = open(workspace.new("log"), "w")
        command = ["taskset", "-c", workspace.server_cores, *map(str, command)]
        path = os.environ["PATH"] + ":/usr/sbin"
        given = {"PATH": path, **(environment or {})}
        self.process = subprocess.Popen(command, env=given, stdout=self.log, stderr=self.log)
        workspace.running.append(self)
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{command} did not start: {Path(self.log.name).read_text()[-2000:]}")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def program(name):
    return Path(os.environ.get("KEYWARD_TEST_GATEWAYS", ROOT / "target/gateways")) / "bin" / name


def replaced(name, replacements):
    """A file under `config/gateways/` with replacements, each of which must apply."""
    text = (ROOT / "config/gateways" / name).read_text()
    for before, after in replacements.items():
        assert before in text, f"{name} has {before!r}"
        text = text.replace(before, after)
    return text


def nginx(workspace, text, port):
    folder = workspace.new("x").parent
    places = "".join(
        f"    {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(text.replace("http {\n", "http {\n    access_log off;\n" + places, 1))
    command = ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"]
    return Proxy(workspace, [*command, "-g", f"daemon off; master_process off; pid {folder}/pid;"], port)


def upstream(workspace):
    """An upstream that costs as little as possible."""
    port = free_port()
    server = f"server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000; location / {{ return 200 ok; }} }}"
    return nginx(workspace, f"events {{}}\nhttp {{\n    {server}\n}}\n", port)


def envoy_pair(workspace, server, api):
    """Envoy with the filter, and Envoy without it."""
    ports = free_port(), free_port()
    texts = []
    for port in ports:
        texts.append(replaced("envoy.yaml", {
            "address: 0.0.0.0, port_value: 8000": f"address: 127.0.0.1, port_value: {port}",
            "port_value: 3000": f"port_value: {api.port}",
            "port_value: 50051": f"port_value: {server.grpc.rsplit(':', 1)[1]}",
        }))
    filtered, bare = texts
    start, end = bare.index("                  - name: envoy.filters.http.ext_authz"), bare.index("                  - name: envoy.filters.http.router")
    bare = bare[:start] + bare[end:]
    start, end = bare.index("                      typed_per_filter_config:"), bare.index("                      routes:")
    bare = bare[:start] + bare[end:]
    proxies = []
    for port, text in zip(ports, (filtered, bare)):
        file = workspace.new("envoy.yaml")
        file.write_text(text)
        command = [program("envoy-binary"), "-c", file, "--concurrency", 1, "--disable-hot-restart", "--log-level", "error"]
        proxies.append(Proxy(workspace, command, port, {"KEYWARD_GATEWAY_KEY": server.bearer}))
    return proxies


def nginx_pair(workspace, server, api):
    """nginx with `auth_request`, and nginx without it."""
    credential = workspace.new("credential.conf")
    credential.write_text(f"proxy_set_header X-Keyward-Gateway {server.bearer};\n")
    proxies = []
    for filtered in (True, False):
        port = free_port()
        text = replaced("nginx.conf", {
            "worker_processes auto;": "worker_processes 1;",
            "listen 8000;": f"listen 127.0.0.1:{port};\n        keepalive_requests 1000000;",
            "server 127.0.0.1:8080;": f"server {server.http};",
            "server 127.0.0.1:3000;": f"server 127.0.0.1:{api.port};",
            "            include /etc/nginx/keyward_credential.conf;": f"            include {credential};",
        })
        if not filtered:
            text = re.sub(r" *auth_request(_set)? .*\n", "", text)
            text = re.sub(r".*\$keyward_.*\n", "", text).replace("map $keyward_status $retry_after {", "map $host $unused {")
            # Nothing is refused here.
            text = re.sub(r"\n        location @refused \{.*?\n        \}\n", "\n", text, flags=re.S)
            text = re.sub(r" *error_page .*\n", "", text)
            text = re.sub(r"\n    # Keyward says when.*?\n    \}\n", "\n", text, flags=re.S)
        proxies.append(nginx(workspace, text, port))
    return proxies


def wait_until_open(proxy, secret):
    request = urllib.request.Request(f"http://127.0.0.1:{proxy.port}/api/build/b1", headers={"authorization": f"Bearer {secret}"})
    for _ in range(200):
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                assert answer.read() == b"ok"
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError("the gateway lets no request pass")


def wrk(workspace, proxy, secret, seconds):
    """Drives one gateway; its throughput and latencies."""
    command = ["taskset", "-c", workspace.load_cores, "wrk", "--latency", "-t", "1", "-c", str(CONNECTIONS)]
    command += ["-d", f"{max(1, round(seconds))}s", "-H", f"authorization: Bearer {secret}"]
    command += [f"http://127.0.0.1:{proxy.port}/api/build/b1"]
    text = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    assert "Non-2xx" not in text and "Socket errors" not in text, text
    units = {"us": 1, "ms": 1_000, "s": 1_000_000}

    def latency(share):
        number, unit = re.search(rf"^ *{share}% +([\d.]+)(us|ms|s)$", text, re.M).groups()
        return float(number) * units[unit]

    return {
        "rate": float(re.search(r"Requests/sec: +([\d.]+)", text)[1]), "p50_us": latency(50), "p99_us": latency(99),
    }


def gateways(workspace, driver, binaries, arguments, report):
    """Requests through a gateway with Keyward and without. All servers share their cores."""
    if not shutil.which("wrk"):
        raise RuntimeError("wrk is missing")
    postgres = Postgres(workspace)
    name, bodies, bearer = seeded(workspace, postgres, binaries, 1_000)
    server = Keyward(workspace, binaries.keyward, f"{postgres.url}/{name}", bearer=bearer)
    driver.warm(server, bodies)
    secret = next(secrets(bodies))
    api = upstream(workspace)
    rows = []
    for gateway, pair in (("Envoy", envoy_pair), ("nginx", nginx_pair)):
        filtered, bare = pair(workspace, server, api)
        for proxy in (filtered, bare):
            wait_until_open(proxy, secret)
            wrk(workspace, proxy, secret, 1)
        runs = {
            "without Keyward": lambda: wrk(workspace, bare, secret, arguments.seconds),
            "with Keyward": lambda: wrk(workspace, filtered, secret, arguments.seconds),
        }
        results = in_turns(arguments.rounds, runs, report.about(part="gateways", gateway=gateway))
        without = results["without Keyward"]
        for label, found in results.items():
            added = (median(found, name) - median(without, name) for name in ("p50_us", "p99_us"))
            rows.append([
                gateway, label, *(median(found, name) for name in ("rate", "p50_us", "p99_us")), *added,
                ratio(found, without, "rate"),
            ])
        for proxy in (filtered, bare):
            proxy.stop()
    report.text(f"### {CONNECTIONS} connections; gateway, Keyward and upstream on the same cores")
    report.table(
        ["gateway", "", "requests/s", "p50 µs", "p99 µs", "added p50 µs", "added p99 µs", "requests/s, of those without"],
        rows,
    )
