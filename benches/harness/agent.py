"""Verify at an agent on the same host, beside a call to the replica."""

from .measure import in_turns, median, ratio
from .servers import Keyward, Postgres, Server, seeded, settle


class Agent(Server):
    """An agent behind a Unix socket, with memory for all keys."""

    def __init__(self, workspace, binary, replica, bearer):
        folder = workspace.new("x").parent
        flags = ["--upstream", f"http://{replica.grpc}", "--listen", f"unix:{folder}/agent.sock", "--memory", "1GiB"]
        super().__init__(workspace, [binary, "agent", *flags], {"KEYWARD_AGENT_CREDENTIAL": bearer}, folder)
        self.bearer = bearer
        self.wait_for("grpc")


def agent(workspace, driver, binaries, arguments, report):
    """Rate, CPU and latency of Verify at an agent, over its Unix socket, and at a replica, over loopback."""
    postgres = Postgres(workspace)
    name, bodies, bearer = seeded(workspace, postgres, binaries, arguments.keys)
    replica = Keyward(workspace, binaries.keyward, f"{postgres.url}/{name}", bearer=bearer)
    driver.warm(replica, bodies)
    beside = Agent(workspace, binaries.keyward, replica, bearer)
    driver.warm(beside, bodies)
    settle()
    rows = []
    for shape in ((1, 1), *(tuple(map(int, shape.split("x"))) for shape in arguments.shapes)):
        calls = replica.verdicts("VALID")
        runs = {
            "agent": lambda: driver.unary(beside, bodies, shape),
            "replica": lambda: driver.unary(replica, bodies, shape),
        }
        results = in_turns(arguments.rounds, runs, report.about(part="agent", shape=f"{shape[0]}x{shape[1]}"))
        calls = replica.verdicts("VALID") - calls - sum(found["sent"] for found in results["replica"])
        asked = sum(found["sent"] for found in results["agent"])
        for label, found in results.items():
            rows.append([
                f"{shape[0]} x {shape[1]}", label,
                *(median(found, field) for field in ("rate", "server_cpu_us", "p50_us", "p99_us")),
                *(ratio(results["agent"], found, field) for field in ("rate", "p50_us")),
                f"{calls / asked:.2%}" if label == "agent" else "",
            ])
    report.table(
        ["shape", "server", "calls/s", "CPU µs/call", "p50 µs", "p99 µs", "agent/it: calls/s", "p50", "passed on to the replica"],
        rows,
    )
