"""Judges a history: the guarantees that docs/testing.md lists, from nothing but what
the clients saw.  Every violation is a line of text under one of these names.

    lost        acked, and not in the recipient's inbox (or the sender's own)
    doubled     one message under two numbers of an inbox
    reordered   a device's messages to one account, not in the order it sent them
    changed     a number, a place or a body is not what it was before
    gap         a device was never given a number, and never told `truncated`
    unasked     in an inbox, and nobody sent it, or it had been refused
    causality   an ack's lamport is not above all that its device had seen
    cursor      the server's cursor of a device fell, or was ahead of the device
    refused     a sound message was refused for good
    stuck       the server and a device do not agree on where it is
"""

import collections

OWN = 1         # flag of a sender's own copy
EXPIRED = 16
LISTS = ("lost", "doubled", "reordered", "changed", "gap", "unasked", "causality",
         "cursor", "refused", "stuck")
# A sound message may be refused for good with these.
FAIR = {"unknown-recipient"}


class Device:
    def __init__(self):
        self.seen = 0           # highest lamport or stamp it was told
        self.cursor = None      # highest it said it stores
        self.numbers = set()    # delivered or paged
        self.first = None       # number that its first session began with
        self.end = 0            # of its inbox, as far as it was told
        self.reading = set()    # numbers of the reading that goes on
        self.kept = 0           # highest cursor of its own that the server named


class Checker:
    def __init__(self, keep=40, read=False):
        self.must_read = read   # the history ends with readings of all inboxes
        self.found = {name: [] for name in LISTS}
        self.counts = collections.Counter()
        self.keep = keep
        self.sends = {}                 # mid -> [event, seen before]
        self.acks = {}                  # mid -> event
        self.refusals = {}              # mid -> event
        self.inbox = collections.defaultdict(dict)      # account -> n -> content
        self.where = collections.defaultdict(dict)      # account -> (mid, own) -> n
        self.places = {}                # (shard, offset) -> mid
        self.devices = collections.defaultdict(Device)
        self.accounts = collections.defaultdict(set)    # account -> devices
        self.oldest = collections.defaultdict(lambda: 1)
        self.readings = 0
        self.last_read = collections.defaultdict(set)   # account -> numbers, at the end

    def bad(self, name, text):
        self.counts[name] += 1
        if len(self.found[name]) < self.keep:
            self.found[name].append(text)

    # ---- events, in the order of each device

    def take(self, e):
        getattr(self, f"_{e.kind}", lambda e: None)(e)

    def _send(self, e):
        self.sends[e.mid] = (e, self.devices[e.dev].seen)

    def _ack(self, e):
        send, seen = self.sends.get(e.mid, (None, 0))
        if not send:
            self.bad("unasked", f"{e.dev} got an ack of {e.mid} that it never sent")
            return
        if e.mid in self.acks:
            return
        self.acks[e.mid] = e
        if e.lamport <= seen:
            self.bad("causality", f"{e.dev} seq {e.seq}: lamport {e.lamport}, "
                     f"but it had seen {seen}")
        place = (e.shard, e.offset)
        if self.places.setdefault(place, e.mid) != e.mid:
            self.bad("changed", f"shard {e.shard} offset {e.offset} was given to "
                     f"{self.places[place]} and to {e.mid}")
        d = self.devices[e.dev]
        d.seen = max(d.seen, e.lamport, e.stamp)

    def _refused(self, e):
        self.refusals[e.mid] = e
        if e.problem not in FAIR:
            self.bad("refused", f"{e.dev} seq {e.seq}: {e.problem}")

    def _record(self, e):
        account = e.dev.split("/")[0]
        self.accounts[account].add(e.dev)
        d = self.devices[e.dev]
        d.numbers.add(e.n)
        if e.flags & EXPIRED:
            return
        content = (e.mid, e.frm, e.fdev, e.seq, e.lamport, e.stamp, e.flags & OWN,
                   e.crc)
        before = self.inbox[account].setdefault(e.n, content)
        if before != content:
            self.bad("changed", f"{e.dev} n {e.n}: {content}, before {before}")
            return
        key = (e.mid, e.flags & OWN)
        first = self.where[account].setdefault(key, e.n)
        if first != e.n:
            self.bad("doubled", f"{account}: {e.mid} is n {first} and n {e.n}")

    def _deliver(self, e):
        d = self.devices[e.dev]
        if d.cursor is not None and e.n <= d.cursor and e.n not in d.numbers:
            self.bad("gap", f"{e.dev} n {e.n} came below its cursor {d.cursor}")
        self._record(e)
        d.seen = max(d.seen, e.lamport, e.stamp)

    def _page(self, e):
        self.devices[e.dev].reading.add(e.n)
        self._record(e)

    def _recv(self, e):
        d = self.devices[e.dev]
        d.cursor = max(d.cursor or 0, e.cursor)

    def _welcome(self, e):
        account = e.dev.split("/")[0]
        self.accounts[account].add(e.dev)
        d = self.devices[e.dev]
        if e.reason in ("ahead", "rollback", "epoch"):
            self.bad("stuck", f"{e.dev} with cursor {d.cursor} was told '{e.reason}', "
                     f"inbox ends at {e.n}")
        if d.cursor is not None and e.n < d.cursor:
            self.bad("lost", f"{e.dev} has n {d.cursor}, the inbox ends at {e.n}")
        if e.truncated:
            self.oldest[account] = max(self.oldest[account], e.truncated)
        if e.cursor is not None:
            if e.cursor < d.kept:
                self.bad("cursor", f"{e.dev}: kept {d.kept}, then {e.cursor}")
            if e.cursor > (d.cursor or 0):
                self.bad("cursor", f"{e.dev}: the server keeps {e.cursor}, "
                         f"it said {d.cursor}")
            d.kept = max(d.kept, e.cursor)
        if d.first is None:
            d.first = (e.cursor or 0) + 1
        d.end = max(d.end, e.n)

    def _paged(self, e):
        account = e.dev.split("/")[0]
        self.readings += 1
        # What the server let go of is told by the first number of a reading.
        self.oldest[account] = max(self.oldest[account], e.first)
        d = self.devices[e.dev]
        for n in range(e.first, e.end + 1):
            if n not in d.reading:
                self.bad("gap", f"{e.dev} read all of {e.first} to {e.end} by "
                         f"{e.gateway}, and not n {n}")
        self.last_read[account] |= d.reading
        d.reading.clear()
        if d.first is None:
            d.first = e.first
        d.end = max(d.end, e.end)

    # ---- the end

    def close(self):
        self._all_acked()
        self._all_asked()
        self._order()
        self._numbers()
        return self

    def _present(self, account, mid, own):
        return self.where[account].get((mid, own))

    def _missing(self, account, mid, own):
        """Where the record of a message ought to be and is not; None: it is there.
        What retention took (below the oldest that is kept) counts by its delivery."""
        n = self._present(account, mid, own)
        if n is None:
            return "not in the inbox"
        if self.must_read and n >= self.oldest[account] and \
                n not in self.last_read[account]:
            return f"delivered as n {n}, not there at the end"
        return None

    def _all_acked(self):
        """Each acked message is in the recipient's inbox, its own copy in the sender's,
        and still there when all was read at the end."""
        for mid, ack in self.acks.items():
            send = self.sends[mid][0]
            missing = self._missing(send.to, mid, 0)
            if missing and (self.accounts[send.to] or self.must_read):
                self.bad("lost", f"{send.dev} seq {send.seq} to {send.to}: acked at "
                         f"shard {ack.shard} offset {ack.offset}, {missing}")
            if ack.n is None:
                continue
            account = send.dev.split("/")[0]
            missing = self._missing(account, mid, OWN)
            n = self._present(account, mid, OWN)
            if missing:
                self.bad("lost", f"{send.dev} seq {send.seq}: own copy {missing}")
            elif n != ack.n:
                self.bad("changed", f"{send.dev} seq {send.seq}: own copy was acked as "
                         f"n {ack.n} and is n {n}")

    def _all_asked(self):
        for account, inbox in self.inbox.items():
            for n, (mid, frm, fdev, seq, lamport, _, own, crc) in inbox.items():
                send = self.sends.get(mid, (None,))[0]
                if not send:
                    self.bad("unasked", f"{account} n {n}: {mid} was never sent")
                    continue
                if mid in self.refusals:
                    self.bad("unasked", f"{account} n {n}: {mid} had been refused")
                want = (send.dev, send.seq, send.crc)
                if (f"{frm}/{fdev}", seq, crc) != want:
                    self.bad("changed", f"{account} n {n}: {frm}/{fdev} seq {seq} crc "
                             f"{crc}, sent was {want}")
                home = frm if own else send.to
                if account != home:
                    self.bad("changed", f"{account} n {n}: was sent to {send.to}")
                ack = self.acks.get(mid)
                if ack and ack.lamport != lamport:
                    self.bad("changed", f"{account} n {n}: lamport {lamport}, the ack "
                             f"said {ack.lamport}")

    def _order(self):
        for account, inbox in self.inbox.items():
            last = {}
            for n in sorted(inbox):
                _, frm, fdev, seq, *_, own, _ = inbox[n]
                if own:
                    continue
                before = last.get((frm, fdev))
                if before and before[0] >= seq:
                    self.bad("reordered", f"{account}: {frm}/{fdev} seq {seq} is n {n}, "
                             f"seq {before[0]} is n {before[1]}")
                last[frm, fdev] = (seq, n)

    def _numbers(self):
        """Every device has every number from its first on, or was told of the hole."""
        for account, names in self.accounts.items():
            oldest = self.oldest[account]
            for name in names:
                d = self.devices[name]
                end = max(d.end, max(d.numbers, default=0))
                for n in range(max(d.first or 1, oldest), end + 1):
                    if n not in d.numbers:
                        self.bad("gap", f"{name} was never given n {n} of {end}")
                if d.cursor is not None and d.cursor > end:
                    self.bad("gap", f"{name} stored up to {d.cursor} of {end}")


def judge(events, keep=40, read=False):
    checker = Checker(keep, read)
    for e in events:
        checker.take(e)
    return checker.close()
