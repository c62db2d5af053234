"""Starts and stops Postgres, Redis and the servers under test, on given cores and free ports."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from .build import ROOT

ROOT_KEY = "root-credential-of-the-benches-0123456789"
# Fixed, so that keys can be written directly into a database.
MASTER_KEY = base64.b64encode(bytes(range(32))).decode()
NORRIX = (ROOT / "config/norrix.toml").read_text()


class Workspace:
    """The folder of a run, the cores of its processes, and the processes to stop at its end."""

    def __init__(self, server_cores, load_cores, postgres_cores):
        self.server_cores = server_cores
        self.load_cores = load_cores
        self.postgres_cores = postgres_cores
        self.folder = Path(tempfile.mkdtemp(prefix="keyward-bench-"))
        # Postgres runs as another user, who must be able to enter the folder.
        self.folder.chmod(0o755)
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new(self, name):
        """A path that is not used yet."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / name


class Postgres:
    """A Postgres cluster."""

    # Enough memory for a million keys, and statements that can be counted.
    SETTINGS = (
        "-c shared_buffers=1GB -c max_wal_size=8GB -c shared_preload_libraries=pg_stat_statements "
    )
    DURABLE = "-c fsync=on -c synchronous_commit=on -c full_page_writes=on "

    def __init__(self, workspace, durable=False):
        self.folder = workspace.folder / ("durable" if durable else "fast")
        settings = self.SETTINGS + (self.DURABLE if durable else "")
        self.script = str(ROOT / "tests/support/postgres.sh")
        started = subprocess.run(
            ["taskset", "-c", workspace.postgres_cores, self.script, "start", str(self.folder)],
            env={**os.environ, "KEYWARD_POSTGRES_SETTINGS": settings},
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )
        self.url = started.stdout.strip().splitlines()[-1]
        self.count = 0
        workspace.running.append(self)
        self.psql("CREATE EXTENSION pg_stat_statements")
        self.count_statements(False)

    def stop(self):
        subprocess.run([self.script, "stop", str(self.folder)], check=False)

    def psql(self, sql, database="postgres"):
        """Runs statements, each in its own transaction; returns the rows of the last one, with `|` between fields."""
        found = shutil.which("psql") or str(sorted(Path("/usr/lib/postgresql").glob("*/bin/psql"))[-1])
        commands = [part for statement in ([sql] if isinstance(sql, str) else sql) for part in ("-c", statement)]
        done = subprocess.run(
            [found, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *commands, f"{self.url}/{database}"],
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )
        return done.stdout.strip()

    def database(self, like=None):
        """Creates a database, optionally as a copy of another one; returns its name."""
        self.count += 1
        name = f"keyward_{self.count}"
        self.psql(f"CREATE DATABASE {name} TEMPLATE {like or 'template0'}")
        return name

    def count_statements(self, on=True):
        """Starts or stops counting statements."""
        track = "top" if on else "none"
        self.psql([f"ALTER SYSTEM SET pg_stat_statements.track = '{track}'", "SELECT pg_reload_conf()"])
        time.sleep(0.5)
        self.psql("SELECT pg_stat_statements_reset()")

    def lookups(self):
        """The number of look-up statements that ran, and of the rows that they returned."""
        row = self.psql(
            "SELECT coalesce(sum(calls), 0), coalesce(sum(rows), 0) FROM pg_stat_statements "
            "WHERE query LIKE '%FROM keyward_keys%digest = %'"
        )
        return tuple(int(field) for field in row.split("|"))


class Redis:
    """A Redis server on the cores of Postgres."""

    def __init__(self, workspace):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        folder = workspace.new("x").parent
        command = ["redis-server", "--bind", "127.0.0.1", "--port", self.port, "--save", "", "--dir", folder]
        self.process = subprocess.Popen(
            ["taskset", "-c", workspace.postgres_cores, *map(str, command)], stdout=subprocess.DEVNULL
        )
        self.pid = self.process.pid
        workspace.running.append(self)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("redis-server did not start")

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def scripts(self):
        """The number of scripts run so far."""
        with socket.create_connection(("127.0.0.1", self.port)) as wire:
            wire.sendall(b"INFO commandstats\r\nQUIT\r\n")
            text = b"".join(iter(lambda: wire.recv(1 << 16), b"")).decode()
        found = re.search(r"cmdstat_evalsha:calls=(\d+)", text)
        return int(found[1]) if found else 0

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


class Server:
    """A server process. It prints the addresses that it listens on."""

    def __init__(self, workspace, command, environment=None, folder=None):
        self.folder = folder or workspace.new("x").parent
        self.log = open(self.folder / "log", "a")
        self.process = subprocess.Popen(
            ["taskset", "-c", workspace.server_cores, *map(str, command)],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.pid = self.process.pid
        self.addresses = {}
        workspace.running.append(self)
        self.workspace = workspace

    def wait_for(self, *names):
        """Reads standard output until it names these addresses."""
        while not all(name in self.addresses for name in names):
            line = self.process.stdout.readline()
            if not line:
                self.log.flush()
                raise RuntimeError("the server ended:\n" + (self.folder / "log").read_text()[-2000:])
            found = re.match(r"(\w+) listening on (\S+)", line)
            if found:
                self.addresses[found[1]] = found[2]
        return self

    @property
    def grpc(self):
        return self.addresses["grpc"]

    @property
    def http(self):
        return self.addresses["http"]

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.log.close()
        if self in self.workspace.running:
            self.workspace.running.remove(self)

    def rss(self):
        """Resident bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self):
        """User and system time so far, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Twin(Server):
    """The bare twin. It answers with a recorded response."""

    bearer = None

    def __init__(self, workspace, binary, response=None):
        super().__init__(workspace, [binary, *(["--response", response] if response else [])])
        self.wait_for("grpc")


class Naive(Server):
    """The naive twin."""

    bearer = None

    def __init__(self, workspace, binary, url, own_table=False):
        super().__init__(workspace, [binary, "--database-url", url, *(["--own-table"] if own_table else [])])
        self.wait_for("grpc")


class Keyward(Server):
    """Keyward."""

    def __init__(self, workspace, binary, url, rate_limit=None, cache="1GiB", bearer=None, store=None, batch=1):
        folder = workspace.new("x").parent
        # Settings of the keyspace stand before its routes.
        limit = f"rate_limit = {rate_limit}\n" if rate_limit else ""
        config = NORRIX.replace("credential =", f"{limit}credential =", 1) + f'[replica]\ncache = "{cache}"\n'
        if store:
            config += f'[rate_limit]\nstore = "{store}"\nbatch = {batch}\n'
        (folder / "keyward.toml").write_text(config)
        super().__init__(workspace, [binary, "serve"], environment(url, folder / "keyward.toml"), folder)
        self.bearer = bearer
        self.wait_for("grpc", "http")

    def metrics(self):
        """All metrics by name and labels."""
        with urllib.request.urlopen(f"http://{self.addresses['http']}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def verdicts(self, code):
        """The number of verdicts with this code so far."""
        return int(sum(
            value
            for name, value in self.metrics().items()
            if name.startswith("keyward_verify_verdicts_total") and f'code="{code}"' in name
        ))


def environment(url, config=None):
    """The environment of a server."""
    variables = {
        "DATABASE_URL": url,
        "KEYWARD_ROOT_KEY": ROOT_KEY,
        "KEYWARD_MASTER_KEY": MASTER_KEY,
        "KEYWARD_GRPC_ADDR": "127.0.0.1:0",
        "KEYWARD_HTTP_ADDR": "127.0.0.1:0",
    }
    return {**variables, **({"KEYWARD_CONFIG": str(config)} if config else {})}


def seeded(workspace, postgres, binaries, keys):
    """Creates a database with this many keys. Returns its name, the file of their requests, and the secret of a service key."""
    name = postgres.database()
    url = f"{postgres.url}/{name}"
    given = {"PATH": os.environ["PATH"], **environment(url)}
    subprocess.run([binaries.keyward, "migrate"], env=given, check=True, stdout=subprocess.DEVNULL)
    bodies = workspace.new("verify")
    seed = ["seed", "--database-url", url, "--master-key", MASTER_KEY, "--count", str(keys), "--out", str(bodies)]
    done = subprocess.run([binaries.load, *seed], check=True, text=True, stdout=subprocess.PIPE)
    return name, bodies, json.loads(done.stdout)["service_key"]


def settle():
    """Waits until a server has flushed its usage, so that the flush does not fall into the next turn."""
    time.sleep(1.2)
