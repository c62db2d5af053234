"""Writes tables, and the raw figures beside them."""

import json
import os
import platform
import subprocess
from pathlib import Path

from .build import ROOT, TARGET


def machine():
    """Describes the machine, the compiler and the commit."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = int(open("/proc/meminfo").readline().split()[1]) // (1 << 20)
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    rustc = subprocess.run(["rustc", "--version"], text=True, stdout=subprocess.PIPE).stdout.strip()
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return [
        f"commit {commit.stdout.strip()}; {rustc}",
        f"{os.cpu_count()} cores of {cpu}; {memory} GiB; Linux {platform.release()}; load before the run {load}",
    ]


def stolen():
    """Ticks that the hypervisor gave to other machines (steal), and all ticks."""
    ticks = [int(field) for field in open("/proc/stat").readline().split()[1:9]]
    return ticks[7], sum(ticks)


class Report:
    """The report of one part."""

    def __init__(self, name, arguments):
        self.folder = Path(arguments.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.raw = open(self.folder / f"{name}.jsonl", "w")
        self.lines = [f"## {name}", ""]
        facts = machine() + [f"rounds {arguments.rounds}, {arguments.seconds} s each, keys {arguments.keys}"]
        self.lines += [f"- {fact}" for fact in facts] + [""]
        self.missed = []
        self.before = stolen()

    def log(self, entry):
        """Writes a raw figure."""
        self.raw.write(json.dumps(entry) + "\n")
        self.raw.flush()

    def about(self, **labels):
        """A log function that adds labels."""
        return lambda entry: self.log({**labels, **entry})

    def text(self, line):
        self.lines += [*([""] if self.lines[-1] else []), line, ""]

    def table(self, header, rows):
        cells = [header, ["---"] * len(header), *rows]
        self.lines += ["| " + " | ".join(show(cell) for cell in row) + " |" for row in cells] + [""]

    def target(self, what, value, holds, wanted):
        """Adds a figure that has a target."""
        self.lines.append(f"- {what}: **{show(value)}** (target: {wanted}): {'met' if holds else 'NOT MET'}")
        if not holds:
            self.missed.append(what)

    def close(self):
        (steal, whole), after = self.before, stolen()
        share = (after[0] - steal) / max(1, after[1] - whole)
        self.text(f"{share:.1%} of the CPU time was stolen by the hypervisor.")
        text = "\n".join(self.lines) + "\n"
        (self.folder / f"{self.name}.md").write_text(text)
        self.raw.close()
        print(text)


def show(value):
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


TARGET_FOLDER = TARGET / "report"
