"""Torture: real nodes, real disks that lose power, real clients, and a checker.

usage: run.py [--minutes M] [--seed N] [--nodes N] [--rate N] [--only KIND,KIND]
              [--prove] [--folder DIR] [--keep] [--list]

    --minutes   how long faults come (30)
    --seed      of everything that is drawn; printed, so that a run can be repeated
    --only      these kinds of faults alone
    --prove     syncs are not done, and the power of all nodes is cut: it must see
                losses; exit 0 when it does
    --list      the kinds, and which of them are skipped here and why

Run by tools/dev/torture, in name spaces of its own.  Exit status: 0 all guarantees
held; 1 they did not; 2 usage; 77 the machine lacks what it needs.
"""

import argparse
import collections
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(ROOT / "tests" / "scenario"))

import checker  # noqa: E402
import faults  # noqa: E402
import faults_disk  # noqa: E402
import faults_net  # noqa: E402
import faults_rot  # noqa: E402
import figures  # noqa: E402
import ground  # noqa: E402
import history  # noqa: E402
import linear  # noqa: E402
from lib import certs  # noqa: E402
from node import GATEWAY, PEER, AdminError, Node, Silent  # noqa: E402
from schedule import Schedule  # noqa: E402
from watch import Watch  # noqa: E402

KINDS = [*faults.ALL, *faults_net.ALL, *faults_disk.ALL, *faults_rot.ALL]
LACKS = 77
HOUR_MS = 3600 * 1000


class Crew:
    """A process of clients."""

    def __init__(self, run, spec, program="crew.py"):
        path = run.folder / f"{spec['name']}.json"
        path.write_text(json.dumps(spec))
        self.errors = open(run.folder / f"{spec['name']}.log", "w")
        self.process = subprocess.Popen(
            [sys.executable, "-B", str(HERE / program), str(path)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            start_new_session=True)
        self.said = {}
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.said = json.loads(line)

    def tell(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass    # found out by who looks at the process

    def end(self):
        self.tell("end")
        code = self.process.wait(60)
        self.reader.join(10)
        self.errors.close()
        return code


class Run:
    def __init__(self, args):
        self.args = args
        self.seed = args.seed if args.seed is not None else random.SystemRandom() \
            .randrange(1, 1 << 31)
        self.dice = random.Random(self.seed)
        self.build = Path(os.environ.get("B", ROOT / "build" / "release")).resolve()
        self.quipud = self.build / "quipud"
        self.shim = self.build / "torture-shim.so"
        self.dump = self.build / "quipu-dump"
        stamp = time.strftime("%m%d-%H%M%S")
        self.folder = Path(args.folder or
                           self.build / "torture" / f"{stamp}-seed-{self.seed}")
        self.ground = self.folder / "ground"
        self.began = time.monotonic()
        self.nodes = []
        self.crews = []
        self.violations = []        # (name, text), beside those of the checker
        self.expected_dead = set()  # nodes whose end is part of a fault
        self.deadline = None

    # ---- talking

    def say(self, text):
        line = f"{time.monotonic() - self.began:7.1f}  {text}"
        print(line, flush=True)
        with open(self.folder / "run.log", "a") as f:
            f.write(line + "\n")

    def fault_of_product(self, name, text):
        self.violations.append((name, text))
        self.say(f"VIOLATION {name}: {text}")

    # ---- waiting

    def look(self):
        """Things that must not be, whatever is waited for."""
        for node in self.nodes:
            if node.process and not node.up and node.n not in self.expected_dead:
                code = node.gone()
                self.fault_of_product("ended", f"node {node.n} ended by itself with "
                                      f"status {code}:\n{node.tail()}")
                node.start()
        for crew in self.crews:
            if crew.process.poll() is not None:
                raise RuntimeError(f"the clients of {crew.errors.name} ended")

    def until(self, condition, patience):
        if self.args.prove:
            patience /= 8   # what is lost does not come back
        end = time.monotonic() + patience
        while not condition():
            if time.monotonic() > end:
                return False
            self.look()
            time.sleep(0.05)
        return True

    def hold(self, seconds):
        """A fault lasts: time is what this waits for."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(min(0.05, max(0.0, end - time.monotonic())))

    # ---- making everything

    def make(self):
        self.ground.mkdir(parents=True)
        # A build that goes on meanwhile must not change what is tested.
        for name in ("quipud", "dump", "shim"):
            setattr(self, name, Path(shutil.copy2(getattr(self, name), self.ground)))
        ground.bridge()
        numbers = range(1, self.args.nodes + 1)
        certs.ca(self.ground)
        peers = {f"peers.{n}": f"{ground.address(n)}:{PEER}" for n in numbers}
        for n in numbers:
            certs.leaf(self.ground, f"node-{n}", f"node-{n}.torture.quipu")
            certs.leaf(self.ground, f"gateway-{n}", f"gateway-{n}",
                       addresses=[ground.address(n)])
            node = Node(n, self, {}, self.args.disk)
            node._configure({
                "node.id": n, "node.cluster": "torture", "node.data": node.data,
                "shards.count": self.args.shards,
                "tls.ca": self.ground / "ca.crt",
                "tls.cert": self.ground / f"node-{n}.crt",
                "tls.key": self.ground / f"node-{n}.key",
                "tokens.key": self.ground / "token.key",
                "gateway.listen": f"{ground.address(n)}:{GATEWAY}",
                "gateway.tls_cert": self.ground / f"gateway-{n}.crt",
                "gateway.tls_key": self.ground / f"gateway-{n}.key",
                "gateway.heartbeat_s": 5,
                "journal.file_size": "2MiB", "journal.max": "24MiB",
                "store.segment_size": "1MiB", "checkpoint.age_s": 5, **peers})
            node.control["no_sync"] = int(self.args.prove)
            self.nodes.append(node)
        # The first makes the key of the tokens, the others read it.
        for node in self.nodes:
            node.start()
            if not self.until(lambda: (self.ground / "token.key").exists(), 30):
                raise RuntimeError(f"node 1 makes no key:\n{self.nodes[0].tail()}")
        self.watch = Watch(self.nodes)
        self.watch.start()
        if not self.until(lambda: self.watch.whole(0.0), 60):
            raise RuntimeError(f"not ready: {self.watch.lagging()}")

    def people(self):
        """Accounts with one to three devices each, in crews."""
        node = self.nodes[0]
        # Tokens that are good on a node whose clock is an hour back, too.
        node.control["clock_ms"] = -2 * HOUR_MS
        accounts, sources = {}, itertools.count()

        def phone(account):
            number = node.ask("device-add", timeout=20, account=account)["device"]
            token = node.ask("token", timeout=20, account=account, device=number,
                             ttl=24 * 3600)["token"]
            return {"account": account, "device": number, "token": token,
                    "source": ground.client(next(sources))}

        for _ in range(self.args.accounts):
            account = node.ask("account-add", timeout=20)["id"]
            accounts[account] = [phone(account)
                                 for _ in range(self.dice.choice((1, 1, 2, 2, 3)))]
        postmen = [phone(node.ask("account-add", timeout=20)["id"])
                   for _ in range(self.args.clerks)]
        node.control["clock_ms"] = 0
        names = list(accounts)
        talk = {a: self.dice.sample([b for b in names if b != a], 4) for a in names}
        for i in range(self.args.crews):
            phones = [p for a in names[i::self.args.crews] for p in accounts[a]]
            self.crews.append(Crew(self, {
                "name": f"crew-{i}", "seed": self.seed + i,
                "rate": self.args.rate / self.args.crews,
                "history": str(self.folder / f"crew-{i}.history"),
                "ca": str(self.ground / "ca.crt"),
                "gateways": [n.gateway for n in self.nodes],
                "phones": phones, "talk": {a: talk[a] for a in names[i::self.args.crews]}}))
        self.crews.append(Crew(self, {
            "name": "clerks", "seed": self.seed, "pace": 6,
            "history": str(self.folder / "clerks.history"),
            "ca": str(self.ground / "ca.crt"),
            "gateways": [n.gateway for n in self.nodes],
            "admins": [str(n.data / "admin.sock") for n in self.nodes],
            "sources": [p["source"] for p in postmen], "postmen": postmen}, "clerk.py"))
        if not self.until(lambda: all(c.said.get("live") == c.said.get("phones", -1)
                                      for c in self.crews), 60):
            raise RuntimeError("the clients do not connect")

    def sum(self, name):
        return sum(c.said.get(name) or 0 for c in self.crews)

    # ---- what is done with it

    def torture(self, kinds):
        self.schedule = Schedule(self, self.dice, kinds)
        end = time.monotonic() + self.args.minutes * 60
        told = 0
        if self.args.prove:
            self.hold(5.0)
        while time.monotonic() < end:
            self.schedule.run_one()
            self.hold(self.dice.uniform(0.1, 1.0))
            if time.monotonic() - told > 20:
                told = time.monotonic()
                self.say(f"-- {self.sum('acked')} acked, {self.sum('delivered')} "
                         f"delivered, {len(self.schedule.record.faults)} faults")
            if len(self.violations) > (0 if self.args.prove else 20):
                self.say("too many violations: the run ends here")
                break

    def settle(self):
        """No fault any more: everything pending must finish."""
        for node in self.nodes:
            node.go_on()
            if not node.process:
                node.start()
        now = time.monotonic()
        if not self.until(lambda: self.watch.whole(now), 180):
            self.fault_of_product("not whole", self.watch.lagging())
        for crew in self.crews:
            crew.tell("quiet")
        if not self.until(lambda: self.sum("open") == 0, 120):
            self.fault_of_product("open", f"{self.sum('open')} sends have no answer")
        for crew in self.crews:
            crew.tell("again")
        stuck = {k: v for c in self.crews for k, v in c.said.get("stuck", {}).items()}
        if not self.until(lambda: self.sum("behind") <= len(stuck) and
                          self.sum("live") + len(stuck) == self.sum("phones"), 120):
            self.fault_of_product("behind", f"{self.sum('behind')} devices do not get "
                                  "to the end of their inbox")
        for crew in self.crews:
            crew.tell("read")
        # All inboxes by all gateways take what they take, but they get on.
        pages = -1
        while not self.until(lambda: all(c.said.get("read") is not None
                                         for c in self.crews), 60):
            if self.sum("pages") == pages:
                self.fault_of_product("read", "inboxes cannot be read to their end")
                break
            pages = self.sum("pages")
        want = (self.sum("phones") - len(stuck)) * len(self.nodes)
        if self.sum("read") < want:
            self.fault_of_product("read", f"{self.sum('read')} of {want} readings")
        for crew in self.crews:
            if crew.end():
                raise RuntimeError(f"the clients failed: {crew.errors.name}")
        self.final = {name: self.sum(name) for name in ("acked", "delivered", "phones")}
        self.problems = collections.Counter()
        for crew in self.crews:
            self.problems.update(crew.said.get("problems", {}))
        self.crews = []
        if not self.until(lambda: self.watch.alike() is None, 60):
            self.fault_of_product("differ", str(self.watch.alike()))
        self.watch.over = True
        self.watch.join(10)
        for node in self.nodes:
            code = node.stop()
            if code != 0:
                self.fault_of_product("end", f"node {node.n}: status {code} at its end")

    def replicas(self, mids):
        """Every acked message, as quipu-dump reads each node's disk."""
        for node in self.nodes:
            left = set(mids)
            dump = subprocess.Popen(
                [str(self.dump), "--json", str(node.data / "shards")], text=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            damage = []
            for line in dump.stdout:
                at = line.find('"mid":"')
                if at > 0:
                    left.discard(line[at + 7:at + 39])
                elif '"what":"DAMAGE"' in line:
                    damage.append(json.loads(line))
            dump.wait(60)
            for d in damage:
                # An index is not synced: who finds it damaged makes it again.
                if not d["file"].endswith(".idx"):
                    self.fault_of_product("damage", f"node {node.n} {d['file']} at "
                                          f"{d['at']}: {d['why']}")
            if left:
                self.fault_of_product(
                    "lost", f"{len(left)} acked messages are not on the disk of node "
                    f"{node.n}: {sorted(left)[:5]}")

    def judge(self):
        check, windows = checker.Checker(read=True), figures.Windows()
        calls = linear.Calls()
        for e in history.read(self.folder):
            check.take(e)
            windows.take(e)
            calls.take(e)
        check.close()
        self.replicas(check.acks)
        verdicts = list(calls.judge())
        found = linear.summary(verdicts)
        # Shortest first: one is enough to begin with.
        for text in found["bad"]:
            self.fault_of_product("not linearizable", text)
        return check, windows, found

    def report(self, check, windows, calls, skipped):
        rows = self.schedule.record.faults
        kinds = collections.Counter(f["kind"] for f in rows)
        found = windows.all()
        report = {
            "seed": self.seed, "minutes": self.args.minutes, "nodes": len(self.nodes),
            "faults": len(rows), "kinds": dict(sorted(kinds.items())),
            "pairs": sum(1 for e in collections.Counter(
                f["episode"] for f in rows).values() if e > 1),
            "sent": len(check.sends), "acked": len(check.acks),
            "delivered": self.final["delivered"], "readings": check.readings,
            "unavailable": figures.spread([b - a for a, b in found]),
            "unavailable_by_kind": figures.by_kind(found, rows, len(self.nodes)),
            "ack_s": figures.spread(windows.latencies),
            "whole_s": figures.repair_times(rows),
            "repaired_s": figures.spread([f["repaired"] for f in rows
                                          if "repaired" in f]),
            "starts": sum(n.starts for n in self.nodes),
            "problems": dict(self.problems), "linear": calls,
            "skipped": skipped,
            "violations": {name: check.counts[name] for name in checker.LISTS},
            "others": [f"{name}: {text}" for name, text in self.violations],
            "examples": {n: t for n, t in check.found.items() if t}}
        (self.folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        return report


def show(report, folder):
    print(f"\nseed {report['seed']}: {report['faults']} faults of "
          f"{len(report['kinds'])} kinds in {report['minutes']} min, {report['pairs']} "
          f"pairs, {report['starts']} starts of a node")
    for kind, n in report["kinds"].items():
        w = report["unavailable_by_kind"].get(kind)
        r = report["whole_s"].get(kind)
        print(f"  {n:4} {kind:24}"
              + (f" windows {w['n']:3} p50 {w['p50']:6.2f} max {w['max']:6.2f} s" if w
                 else " " * 40)
              + (f"  whole p50 {r['p50']:5.1f} max {r['max']:5.1f} s" if r else ""))
    for kind, why in report["skipped"].items():
        print(f"  skipped {kind}: {why}")
    r = report["repaired_s"]
    if r["n"]:
        print(f"repaired: {r['n']} times, p50 {r['p50']} max {r['max']} s")
    u, a = report["unavailable"], report["ack_s"]
    print(f"unavailable: {u['n']} windows, p50 {u['p50']} p99 {u['p99']} max {u['max']} s"
          f"\nsend to ack: p50 {a['p50']} p99 {a['p99']} max {a['max']} s")
    c = report["linear"]
    print(f"linearizable: {c['keys'] - c['undecided'] - len(c['bad'])} of {c['keys']} keys, "
          f"{c['operations']} operations"
          + (f", {c['undecided']} undecided" if c["undecided"] else ""))
    for name, texts in report["examples"].items():
        for text in texts[:5]:
            print(f"  {name}: {text}")
    for text in report["others"]:
        print(f"  {text}")
    v = report["violations"]
    rest = sum(n for name, n in v.items()
               if name not in ("lost", "doubled", "reordered")) + len(report["others"])
    print(f"seed {report['seed']}: {report['acked']} acked, {v['lost']} lost, "
          f"{v['doubled']} doubled, {v['reordered']} reordered, {rest} other violations"
          f"\nall of it is in {folder}")
    return not rest and not v["lost"] and not v["doubled"] and not v["reordered"]


def options():
    p = argparse.ArgumentParser(add_help=False, usage=__doc__.split("\n\n")[1])
    p.add_argument("-h", "--help", action="store_true")
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--seed", type=int)
    p.add_argument("--nodes", type=int, default=3, choices=range(3, 8))
    p.add_argument("--rate", type=float, default=200)
    p.add_argument("--shards", type=int, default=8)
    p.add_argument("--accounts", type=int, default=24)
    p.add_argument("--crews", type=int, default=2)
    p.add_argument("--clerks", type=int, default=6)
    p.add_argument("--disk", type=int, default=768)
    p.add_argument("--only")
    p.add_argument("--prove", action="store_true")
    p.add_argument("--folder")
    p.add_argument("--keep", action="store_true")
    p.add_argument("--list", action="store_true")
    args = p.parse_args()
    if args.help:
        print(__doc__)
        sys.exit(0)
    if args.prove:
        args.only = "power cut all"
    return args


def main():
    args = options()
    run = Run(args)
    lacking = ground.missing(run.shim)
    if lacking:
        print(f"torture: skipped, this machine lacks {lacking}")
        return LACKS
    run.folder.mkdir(parents=True)
    wanted = args.only.split(",") if args.only else None
    unknown = set(wanted or ()) - {k.kind for k in KINDS}
    if unknown:
        print(f"torture: no kind {', '.join(unknown)}; --list shows them",
              file=sys.stderr)
        return 2
    kinds = [k for k in KINDS if not wanted or k.kind in wanted]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ok = False
    try:
        print(f"torture: seed {run.seed}, {args.minutes} min, {args.nodes} nodes; "
              f"everything goes to {run.folder}")
        run.make()
        skipped = {k.kind: why for k in kinds if (why := k.lacks(run))}
        kinds = [k for k in kinds if k.kind not in skipped]
        if args.list:
            for k in KINDS:
                print(f"  {k.kind:24} {skipped.get(k.kind, '')}")
            return 0
        run.people()
        run.torture(kinds)
        run.settle()
        check, windows, calls = run.judge()
        good = show(run.report(check, windows, calls, skipped), run.folder)
        if args.prove:
            lost = check.counts["lost"]
            print("torture: without syncs it saw "
                  + (f"{lost} losses, as it must" if lost else "NO LOSS: it is blind"))
            ok = lost > 0
        else:
            ok = good
            if not ok:
                print(f"again: make torture MINUTES={args.minutes:g} SEED={run.seed}")
        return 0 if ok else 1
    finally:
        for crew in run.crews:
            crew.process.kill()
        for node in run.nodes:
            node.kill()
        for node in run.nodes:
            if node.disk.mounted:
                subprocess.run(["umount", str(node.disk.path)], check=False)
        # The disks are of use only where something is to be found on them.
        if run.ground.exists() and (ok or args.list) and not args.keep:
            shutil.rmtree(run.ground)


if __name__ == "__main__":
    sys.exit(main())
