"""Attacks on an audit log, as whoever gets hold of it could make them, and what a verifier has to call each.

They work on what any log can be exported to (lines, seal, checkpoints), and are random, from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from shipworthy.domain.audit import Draft, Entry, EpochKeys
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import SLOT, Chain, Seal, genesis, seal_of
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.audit.merkle import Tree
from shipworthy.rules.audit.signatures import checkpoint
from shipworthy.rules.audit.verdicts import Report
from shipworthy.rules.audit.verifying import Verifier

SECRET = "a secret of the log's owner, kept elsewhere"
LATER = "the secret that took over from the first one"


class Group(NamedTuple):
    """An entry's line, and that of its body."""

    entry: bytes
    body: bytes | None = None


@dataclass(frozen=True)
class Log:
    """A log as a verifier gets it. `groups` None: there is none. `tail`: bytes after the last line that are no line."""

    groups: tuple[Group, ...] | None
    seal: Seal | None
    checkpoints: tuple[bytes, ...]
    anchored: tuple[bytes, ...] | None
    secrets: tuple[str, ...] = (SECRET,)
    tail: bytes = b""
    expected: str | None = None
    earlier: tuple[Log, ...] = field(default=(), repr=False)
    """The same log as it was at times before."""

    @property
    def count(self) -> int:
        return len(self.groups or ())

    @property
    def id(self) -> str:
        assert self.groups
        entry = form.entry_of(self.groups[0].entry)
        assert entry is not None
        return entry.log

    @property
    def every(self) -> int:
        assert self.groups
        entry = form.entry_of(self.groups[0].entry)
        assert entry is not None
        return int(entry.facts["every"])

    def lines(self) -> list[bytes]:
        return [line for group in self.groups or () for line in group if line is not None]

    def having(self, groups: Sequence[Group] | None, **more: Any) -> Log:
        return replace(self, groups=None if groups is None else tuple(groups), **more)


class Attacked(NamedTuple):
    """A log, and the verdict that it has to get, at this entry (None: wherever)."""

    log: Log
    verdict: str
    entry: int | None


class Said(NamedTuple):
    """What a verifier said."""

    verdict: str
    entry: int | None


def verify(log: Log) -> Report:
    """By our own verifier."""
    verifier = Verifier(
        [Secret(text) for text in log.secrets],
        seals=[] if log.seal is None else [log.seal],
        checkpoints=log.checkpoints,
        anchored=[] if log.anchored is None else [log.anchored],
        expected_log=log.expected,
    )
    for line in log.lines():
        verifier.feed(line)
    if log.tail:
        verifier.feed(log.tail, whole=False)
    return verifier.report(missing=log.groups is None)


def ours(log: Log) -> Said:
    report = verify(log)
    return Said(report.verdict, report.seq)


def theirs(log: Log) -> Said:
    """By `shipworthy_verify`, which was written from the format's page alone."""
    import shipworthy_verify

    lines = (
        None
        if log.groups is None
        else [*[line + b"\n" for line in log.lines()], *([log.tail] if log.tail else [])]
    )
    report = shipworthy_verify.verify(
        lines,
        secrets=log.secrets,
        seal=None if log.seal is None else form.encode(log.seal).ljust(SLOT - 1) + b"\n",
        checkpoints=[line + b"\n" for line in log.checkpoints],
        anchored=[line + b"\n" for line in log.anchored or ()],
        expected_log=log.expected,
    )
    return Said(report.verdict, report.entry)


# logs


def made(
    rng: random.Random,
    count: int,
    *,
    every: int = 8,
    log: str | None = None,
    name: str = "bot",
    checkpoints: bool = True,
    rotate_at: int | None = None,
) -> Log:
    """A log of *count* entries, with checkpoints of its own which an anchor has as well."""
    keys: tuple[EpochKeys, ...] = (Secret(SECRET),)
    standing, draft = genesis(keys[0], name, log or rng.randbytes(16).hex(), 1_000_000, every)
    chain, tree = Chain(keys, standing), Tree()
    groups: list[Group] = []
    heads: list[bytes] = []
    earlier: list[Log] = []
    now = 1_000_000
    for at in range(count):
        now += rng.choice((0, 1, 40, 2_000))
        if at == rotate_at:
            chain.keys = (Secret(LATER), keys[0])
            draft = chain.rotation(now) or draft
        link = chain.link(draft, now - rng.choice((0, 0, 1, 5_000)), rng.randbytes(16))
        if at == rotate_at:
            chain.rotate()
        tree.add(link.line)
        groups.append(Group(link.line, link.body or None))
        draft = a_draft(rng, at)
        if checkpoints and (rng.random() < 0.2 or at == count - 1):
            seed = chain.active().seed(standing.log)
            heads.append(checkpoint(seed, standing.log, name, tree, now))
        if rng.random() < 0.1:
            earlier.append(_as_it_stands(chain, groups, heads))
    whole = _as_it_stands(chain, groups, heads)
    return replace(whole, earlier=tuple(earlier), anchored=tuple(heads) if checkpoints else None)


def a_draft(rng: random.Random, at: int) -> Draft:
    body = form.encode({"text": rng.choice(["", "für Zoë", "x" * rng.randrange(60)]), "at": at})
    return Draft(
        action=rng.choice(["tool.attempted", "tool.returned", "model.answered", "run.started", "run.ended"]),
        actor=rng.choice(["tool:refund", "agent:bot", "runtime"]),
        at=at,
        tenant=rng.choice(["acme", None]),
        user=rng.choice(["alice", "böb", None]),
        run=rng.choice(["r1", "r2"]),
        n=at,
        fence=1,
        facts={"call": f"c{at}", "cost": at, "tools": ["refund"]},
        body=rng.choice([b"", body, body]),
    )


def _as_it_stands(chain: Chain, groups: Sequence[Group], heads: Sequence[bytes]) -> Log:
    at = chain.standing
    seal = Seal(at.count, at.log, at.mac, chain.seal().hex())
    texts = (SECRET,) if at.key == Secret(SECRET).id else (LATER, SECRET)
    return Log(tuple(groups), seal, tuple(heads), None, texts)


def entry_of(group: Group) -> Entry:
    entry = form.entry_of(group.entry)
    assert entry is not None
    return entry


def relinked(
    log: Log, start: int, key_of: Callable[[int], bytes], change: Callable[[int, Entry], Entry]
) -> Log:
    """The log with every entry from *start* on made again, by whoever has these keys; the seal too."""
    assert log.groups
    groups = list(log.groups)
    prev = form.mac_of(groups[start - 1].entry) if start else form.ZEROS
    for seq in range(start, len(groups)):
        entry = change(seq, entry_of(groups[seq]))
        values = {name: getattr(entry, name) for name in entry.__struct_fields__} | {"prev": prev}
        line = form.entry_line(key_of(seq // log.every), Entry(**values))
        groups[seq] = Group(line, groups[seq].body)
        prev = form.mac_of(line)
    key = key_of((len(groups) - 1) // log.every)
    seal = Seal(len(groups), log.id, prev, seal_of(key, log.id, len(groups), prev).hex())
    return log.having(groups, seal=seal)


def with_heads(log: Log, seed: bytes) -> Log:
    """Checkpoints of its own as the entries are now, at the same places, by whoever has the signer's seed."""
    tree, heads, wanted = Tree(), [], {_entries_of(line) for line in log.checkpoints}
    for at, group in enumerate(log.groups or (), 1):
        tree.add(group.entry)
        if at in wanted:
            heads.append(checkpoint(seed, log.id, "bot", tree, 1))
    return replace(log, checkpoints=tuple(heads))


def _entries_of(line: bytes) -> int:
    read = form.head_of(line)
    assert read is not None
    return read[0].entries


def anchored_count(log: Log) -> int:
    return max([_entries_of(line) for line in log.anchored or ()], default=0)


def _changed(entry: Entry, **values: Any) -> Entry:
    return Entry(**{name: getattr(entry, name) for name in entry.__struct_fields__} | values)


# the attacks


def edit(log: Log, other: Log, rng: random.Random) -> Attacked:
    """A byte of an entry is changed."""
    groups = list(log.groups or ())
    at = rng.randrange(len(groups))
    line = groups[at].entry
    kept = [line.index(b'"log":"'), line.index(b'"logged"')]  # another log's id is splicing, by the table
    if at == 0:
        first = line.index(b'"key":"')
        kept += [first, first + 25]  # and another key's id, one that is not known
    while True:
        place = rng.randrange(1, len(line))
        if kept[0] <= place < kept[1] or (at == 0 and kept[2] <= place < kept[3]):
            continue
        byte = rng.choice([n for n in range(256) if n not in (10, line[place])])
        groups[at] = Group(line[:place] + bytes([byte]) + line[place + 1 :], groups[at].body)
        return Attacked(log.having(groups), "edited", at)


def delete(log: Log, other: Log, rng: random.Random) -> Attacked:
    """Entries are taken out of the middle."""
    groups = list(log.groups or ())
    at = rng.randrange(len(groups) - 1)
    del groups[at : min(at + rng.randrange(1, 4), len(groups) - 1)]
    return Attacked(log.having(groups), "deleted", at)


def delete_tail(log: Log, other: Log, rng: random.Random) -> Attacked:
    """The end is cut off."""
    left = rng.randrange(1, log.count)
    return Attacked(log.having((log.groups or ())[:left]), "truncated", left)


def empty(log: Log, other: Log, rng: random.Random) -> Attacked:
    """All entries are taken out."""
    outside = rng.random() < 0.5
    return Attacked(log.having((), **({"seal": None, "checkpoints": ()} if outside else {})), "emptied", None)


def delete_file(log: Log, other: Log, rng: random.Random) -> Attacked:
    """The log is taken away; sometimes its seal and checkpoints as well."""
    outside = rng.random() < 0.5
    return Attacked(
        log.having(None, **({"seal": None, "checkpoints": ()} if outside else {})), "missing", None
    )


def reorder(log: Log, other: Log, rng: random.Random) -> Attacked:
    """Two entries change places, or one goes somewhere else."""
    groups = list(log.groups or ())
    one, two = sorted(rng.sample(range(len(groups)), 2))
    if rng.random() < 0.5:
        groups[one], groups[two] = groups[two], groups[one]
    else:
        groups.insert(one, groups.pop(two))
    return Attacked(log.having(groups), "reordered", one)


def duplicate(log: Log, other: Log, rng: random.Random) -> Attacked:
    """An entry is put in a second time, after itself."""
    groups = list(log.groups or ())
    one = rng.randrange(len(groups))
    to = rng.randrange(one, len(groups)) + 1
    groups.insert(to, groups[one])
    return Attacked(log.having(groups), "duplicated", to)


def insert(log: Log, other: Log, rng: random.Random) -> Attacked:
    """A line is put in that nobody made who has a key."""
    groups = list(log.groups or ())
    at = rng.randrange(len(groups))
    line = groups[rng.randrange(len(groups))].entry
    forged = rng.choice(
        [
            b"",
            rng.randbytes(30).replace(b"\n", b" ").replace(b"{", b" "),
            line[:-10] + b'00000000"}',
            line.replace(b'"actor":"', b'"actor":"operator:'),
            form.entry_line(rng.randbytes(32), _changed(entry_of(groups[at]), at=17)),
        ]
    )
    groups.insert(at, Group(forged))
    return Attacked(log.having(groups), "inserted", at)


def roll_back(log: Log, other: Log, rng: random.Random) -> Attacked:
    """All that is beside the log is put back to what it was, as from a backup."""
    older = [each for each in log.earlier if each.count < anchored_count(log)]
    then = rng.choice(older)
    return Attacked(replace(then, anchored=log.anchored, secrets=log.secrets), "rolled_back", then.count)


def swap(log: Log, other: Log, rng: random.Random) -> Attacked:
    """Another log of the same key takes its place: the entries alone, or all but what the anchor has, or what an
    auditor wrote down."""
    how = rng.randrange(3)
    if how == 0:
        return Attacked(log.having(other.groups), "swapped", 0)
    if how == 1:
        return Attacked(replace(other, anchored=log.anchored), "swapped", 0)
    return Attacked(replace(other, anchored=None, expected=log.id), "swapped", 0)


def splice(log: Log, other: Log, rng: random.Random) -> Attacked:
    """A line of another log of the same key is put in, or takes a line's place."""
    groups = list(log.groups or ())
    at = rng.randrange(1, len(groups))
    taken = (other.groups or ())[rng.randrange(other.count)]
    if rng.random() < 0.5:
        groups[at] = taken
    else:
        groups.insert(at, taken)
    return Attacked(log.having(groups), "spliced", at)


class Stolen:
    """What is in a sealed key file: the key of the epoch that is on, from which the later ones follow."""

    def __init__(self, log: Log, secret: str) -> None:
        self.epoch = (log.count - 1) // log.every
        self._keys = Secret(secret)
        self._log = log.id

    def key(self, number: int) -> bytes:
        """The key for an epoch: for one that is over, the oldest that there is."""
        return self._keys.epoch(self._log, max(number, self.epoch))

    def seed(self) -> bytes:
        return self._keys.seed(self._log)


def rewrite(log: Log, other: Log, rng: random.Random) -> Attacked:
    """A stolen current key, and the signer's seed: an entry of an epoch that is over is changed, and all that follows
    is made again, the seal and the log's own checkpoints too."""
    stolen = Stolen(log, log.secrets[0])
    start = rng.randrange(stolen.epoch * log.every)
    changed = relinked(log, start, stolen.key, _other_at(start, rng))
    return Attacked(with_heads(replace(changed, anchored=None), stolen.seed()), "rewritten", start)


def rewrite_now(log: Log, other: Log, rng: random.Random) -> Attacked:
    """The same, of the epoch that is on: what an anchor has says so."""
    stolen = Stolen(log, log.secrets[0])
    start = rng.randrange(stolen.epoch * log.every, anchored_count(log))
    changed = relinked(log, start, stolen.key, _other_at(start, rng))
    return Attacked(with_heads(changed, stolen.seed()), "rewritten", None)


def _other_at(start: int, rng: random.Random) -> Callable[[int, Entry], Entry]:
    tenant = rng.choice(["umbrella", "initech"])
    return lambda seq, entry: _changed(entry, tenant=tenant) if seq == start else entry


def clock_back(log: Log, other: Log, rng: random.Random) -> Attacked:
    """A writer goes on with a clock that was set back."""
    keys, start = Secret(log.secrets[0]), rng.randrange(1, log.count)
    high = max([entry_of(group).logged for group in (log.groups or ())[:start]])
    back = high - rng.randrange(5_001, 10**6)

    def later(seq: int, entry: Entry) -> Entry:
        return _changed(entry, logged=back + seq - start)

    changed = relinked(log, start, lambda epoch: keys.epoch(log.id, epoch), later)
    changed = with_heads(changed, keys.seed(log.id))
    return Attacked(replace(changed, anchored=changed.checkpoints), "clock_back", start)


Attack = Callable[[Log, Log, random.Random], Attacked]
ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        edit,
        delete,
        delete_tail,
        empty,
        delete_file,
        reorder,
        duplicate,
        insert,
        roll_back,
        swap,
        splice,
        rewrite,
        rewrite_now,
        clock_back,
    )
}


def anything(log: Log, other: Log, rng: random.Random) -> Log:
    """Something is done to a log's lines, or beside them."""
    if rng.random() < 0.3:
        return log.having(log.groups, **_beside(log, other, rng))
    groups = list(log.groups or ())
    if not groups:
        return log
    at = rng.randrange(len(groups))
    entry, body = groups[at]
    match rng.randrange(6):
        case 0:
            place = rng.randrange(len(entry))
            byte = rng.choice([n for n in range(256) if n != 10])
            groups[at] = Group(entry[:place] + bytes([byte]) + entry[place + 1 :], body)
        case 1:
            del groups[at]
        case 2:
            groups.insert(rng.randrange(len(groups) + 1), groups[at])
        case 3:
            groups.insert(at, rng.choice(other.groups or ()))
        case 4:
            groups = groups[:at]
        case _:
            stray = [None, b'{"body":"x","salt":"00","seq":1}', b'{"erased":%d}' % at, body]
            groups[at] = Group(entry, rng.choice(stray))
    return log.having(groups)


def _beside(log: Log, other: Log, rng: random.Random) -> dict[str, Any]:
    own = log.checkpoints
    match rng.randrange(4):
        case 0 if log.groups:
            entry = rng.choice(log.groups).entry
            return {"tail": entry[: rng.randrange(len(entry) + 1)]}
        case 1:
            return {"seal": rng.choice([None, other.seal, *[each.seal for each in log.earlier[:1]]])}
        case 2:
            return {"anchored": rng.choice([None, other.anchored, own, own[:2]])}
        case _:
            return {"checkpoints": rng.choice([(), own, own[:1], (*own, b"x"), other.checkpoints])}


# logs that nobody attacked


def crashed(log: Log, rng: random.Random) -> Log:
    """What a crash may leave: a seal and checkpoints that are behind, and the beginning of an append after the last
    line; and bodies that were erased since."""
    groups = list(log.groups or ())
    older = rng.choice([*log.earlier, log])
    cut = b""
    if rng.random() < 0.7:
        kept = rng.randrange(older.count, len(groups) + 1)
        if kept < len(groups):
            rest = b"".join([line + b"\n" for line in groups[kept] if line is not None])
            cut = rest[: rng.randrange(len(rest))]
            first, newline, cut = cut.partition(b"\n")
            groups = [*groups[:kept], Group(first)] if newline else groups[:kept]
            cut = cut if newline else first
    for at, group in enumerate(groups):
        if group.body is not None and rng.random() < 0.1:
            groups[at] = Group(group.entry, form.erased_line(at, len(group.body)))
    anchored = rng.choice([None, (), older.checkpoints[:-1], older.checkpoints])
    return replace(older, groups=tuple(groups), tail=cut, anchored=anchored, secrets=log.secrets, earlier=())
