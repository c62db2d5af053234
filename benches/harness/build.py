"""Builds the servers and the load, each with its own profile."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHES = ROOT / "benches"
TARGET = ROOT / "target" / "benches"


@dataclass
class Binaries:
    keyward: Path
    # The bare twin with Cargo's default release profile and the system's allocator ...
    twin_default: Path = TARGET / "release/keyward-twin"
    # ... and with the service's profile and allocator.
    twin_ours: Path = TARGET / "ours/keyward-twin"
    naive: Path = TARGET / "ours/keyward-naive"
    load: Path = TARGET / "release/keyward-load"
    micro: Path = TARGET / "ours/keyward-micro"
    client: Path = TARGET / "ours/keyward-client-bench"


def build(keyward, jobs, parts):
    """Builds the parts with one command each: in one command, Cargo would unify the features of all packages."""
    commands = {
        "keyward": (ROOT, ["--release", "--bin", "keyward"]),
        "load": (BENCHES, ["--release", "-p", "keyward-load"]),
        "twin_default": (BENCHES, ["--release", "-p", "keyward-twin"]),
        "twin_ours": (BENCHES, ["--profile", "ours", "-p", "keyward-twin", "--features", "mimalloc"]),
        "naive": (BENCHES, ["--profile", "ours", "-p", "keyward-naive"]),
        "client": (BENCHES, ["--profile", "ours", "-p", "keyward-client-bench"]),
        "micro": (BENCHES, ["--profile", "ours", "-p", "keyward-micro"]),
    }
    for part in parts:
        if part == "keyward" and keyward:
            continue
        folder, arguments = commands[part]
        jobs_arguments = ["-j", str(jobs)] if jobs else []
        environment = dict(os.environ)
        environment.pop("CARGO_TARGET_DIR", None)
        subprocess.run(["cargo", "build", *arguments, *jobs_arguments], cwd=folder, check=True, env=environment)
    return Binaries(keyward=Path(keyward).resolve() if keyward else ROOT / "target/release/keyward")
