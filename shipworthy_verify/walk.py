"""The table of verdicts: a log is read once, and the first thing that is wrong is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from . import form, keys, tree
from .bodies import Bodies
from .marks import Marks
from .seals import Seal

_CLOCK = 5_000  # how far, in milliseconds, a clock may step back
_SEARCH = 2**32  # how many bytes are hashed at most to find the epoch whose key made a line


class _Rest(NamedTuple):
    """What follows a line that is wrong."""

    empty: bool
    next_due: bool  # whether the next authentic line that is not below the due one is the due one
    due_later: bool  # whether the due one comes at all
    epoch: int  # the highest of an authentic line


class Walk:
    """Reads a log. `count` entries are found good so far, the last of them with `mac`."""

    def __init__(
        self, secrets: keys.Secrets, seal: bytes | None, own: Iterable[bytes], anchored: Iterable[bytes]
    ) -> None:
        self.roots = keys.roots(secrets)
        self.seal, self.marks, self.bodies = Seal(seal), Marks(own, anchored), Bodies()
        self.judge_bodies = True
        self.expected: str | None = None
        self.found: list[tuple[str, int | None, str]] = []
        self.log: str | None = None
        self.name: str | None = None
        self.sealed: bool | None = None
        self.keys: list[str] = []
        self.torn = self.count = 0
        self._mac, self._highest, self._epoch, self._every = form.ZEROS, 0, 0, 0
        self._chains: dict[str, keys.Chain] = {}
        self._key = b""
        self._make_mac: Callable[[bytes], str] | None = None
        self._signer = ""
        self._peaks: list[bytes] = []
        self._stops: set[int] = set()
        self._lines: Iterator[bytes] = iter(())

    def run(self, lines: Iterable[bytes]) -> None:
        """Read the log; what is wrong is in `found` then."""
        self._told = bool(self.seal.slots) or self.marks.tell(self.expected)
        self._lines = iter(lines)
        for line in self._entries():
            entry = form.entry(line)
            if not self._every and self._begin(entry, line):
                return
            if entry is None or not self._is_due(entry, line):
                if self._judge(entry, line):
                    return
                break
            if not self._take(entry, line):
                return
        self._end()

    def _entries(self) -> Iterator[bytes]:
        """Give the lines of entries, and take those of bodies aside."""
        for raw in self._lines:
            line = raw if type(raw) is bytes else form.as_bytes(raw)
            whole = line.endswith(b"\n")
            if whole:
                line = line[:-1]
            if not line.startswith(form.BODY):
                yield line
            elif self.judge_bodies or not whole:
                self.bodies.line(line, whole, self.count)
            else:
                self.bodies.waiting = None

    # -- the first line

    def _begin(self, entry: form.Entry | None, line: bytes) -> bool:
        """Learn from an authentic entry 0 what the log is; True where nothing more can be said."""
        if entry is None or entry[0] != 0:
            self._hold(self._held_to() or (entry[3] if entry is not None else None))
            return False
        facts, log = dict(entry[8]), entry[3]
        if facts["key"] not in self.roots:
            self.log, self.name, self.keys = log, facts["name"], [facts["key"]]
            words = f"The log is made with the key {facts['key']}, whose secret was not given."
            self._wrong("wrong_key", 0, words)
            return True
        chain = keys.Chain(self.roots[facts["key"]], log)
        if entry[1] != 0 or not chain.made(line, 0, entry[5]):
            self._hold(self._held_to() or log)
            return False
        self.name = facts["name"]
        other = self._other_log(log)
        if other is not None:
            self.log = log
            self._wrong("swapped", 0, f"This is another log than the one that {other} names.")
            return True
        self._hold(log)
        self._every, self.sealed = facts["every"], facts["sealed"]
        self._use(facts["key"], facts["signer"])
        return False

    def _other_log(self, log: str) -> str | None:
        """Say who expects another log than this one."""
        if self.expected not in (None, log):
            return "the id that was given"
        if self.seal.slots and all(slot.log != log for slot in self.seal.slots):
            return "the seal"
        if self.expected is not None:
            return None
        named = self.marks.newest_log(self.name, log, self._signers)
        newest = named or self.marks.newest_log(None, log, self._signers)
        return "the anchored checkpoints" if newest not in (None, log) else None

    def _signers(self, log: str) -> set[str]:
        """Give who may sign a log's checkpoints."""
        return {keys.Chain(root, log).signer() for root in self.roots.values()}

    def _held_to(self) -> str | None:
        """Give the log's id where entry 0 cannot tell it."""
        if self.expected is not None:
            return self.expected
        anchored, sealed = self.marks.anchored_logs(), [slot.log for slot in self.seal.slots]
        both = [log for log in anchored if log in sealed]
        return next(iter(both or anchored or sealed), None)

    def _hold(self, log: str | None) -> None:
        """Judge by this id from here on."""
        if self.log is None and form.is_hex(log, 32):
            self.log = str(log)
            self._chains = {key: keys.Chain(root, self.log) for key, root in self.roots.items()}
            self._stops = self.marks.hold(self.log) | self.seal.hold(self.log)

    # -- lines that are in order

    def _use(self, key: str, signer: str) -> None:
        """Go on with this key and this signer."""
        self.keys.append(key)
        self._signer, self._make_mac = signer, None

    def _is_due(self, entry: form.Entry, line: bytes) -> bool:
        """Whether this is the entry that is due."""
        seq, epoch, _, log, prev, mac, _, _, _ = entry
        if seq != self.count or log != self.log or prev != self._mac or not self._every:
            return False
        if epoch != seq // self._every:
            return False
        if epoch != self._epoch or self._make_mac is None:
            self._epoch, self._key = epoch, self._chains[self.keys[-1]].key(epoch)
            self._make_mac = keys.macs(self._key)
        return self._make_mac(line) == mac

    def _take(self, entry: form.Entry, line: bytes) -> bool:
        """Count an entry that is good; False where nothing is known of what follows."""
        _, _, logged, _, _, self._mac, body, action, facts = entry
        if self.bodies.waiting:
            self.bodies.missing += 1
        self.bodies.waiting = body
        peak, count = tree.leaf(line), self.count
        while count & 1:
            peak = tree.node(self._peaks.pop(), peak)
            count >>= 1
        self._peaks.append(peak)
        self.count += 1
        if logged > self._highest:
            self._highest = logged
        elif logged < self._highest - _CLOCK and not self.found:
            words = f"The clock went back by {self._highest - logged} ms; the chain goes on."
            self._wrong("clock_back", self.count - 1, words)
        if action == form.ROTATED:
            self._use(*form.rotated(facts) or ("", ""))
            self.sealed = bool(self.sealed and form.seals(facts))
        if self.count in self._stops:
            self.seal.judge(self.count, self._mac, self._key)
            self.marks.judge(self.count, tree.fold(self._peaks), self._signer)
        return action != form.ROTATED or self._known()

    def _known(self) -> bool:
        """Whether the secret that was named last was given."""
        if self.keys[-1] not in self.roots:
            words = f"From here on the log is made with the key {self.keys[-1]}, whose secret was not given."
            self._wrong("wrong_key", self.count, words)
        return self.keys[-1] in self.roots

    # -- lines that are not

    def _wrong(self, verdict: str, entry: int | None, words: str) -> None:
        self.found.append((verdict, entry, words))

    def _authentic(self, entry: form.Entry | None, line: bytes) -> bool:
        """Whether an entry is authentic: the due one under the secret named last, others under any."""
        if entry is None or entry[3] != self.log:
            return False
        seq, epoch = entry[:2]
        if (self._every and epoch != seq // self._every) or epoch > self._epoch + keys.AHEAD:
            return False
        chains = [self._chains[self.keys[-1]]] if self.keys and seq == self.count else self._chains.values()
        return any(chain.made(line, epoch, entry[5]) for chain in chains)

    def _look_ahead(self) -> _Rest:
        """Read what is left of the log, for what it tells of the line before it."""
        empty, following, due_later, top = True, -1, False, self._epoch
        for raw in self._lines:
            empty = False
            line = form.as_bytes(raw).removesuffix(b"\n")
            entry = form.entry(line)
            if entry is None:
                continue
            self._hold(entry[3])
            if self._authentic(entry, line):
                if following < 0 and entry[0] >= self.count:
                    following = entry[0]
                due_later = due_later or entry[0] == self.count
                top = max(top, entry[1])
        return _Rest(empty, following == self.count, due_later, top)

    def _made_otherwise(self, line: bytes, top: int) -> bool:
        """Whether a line's mac is right under another key than the due one, of an epoch that the log has."""
        if line[-74:-66] != b',"mac":"':
            return False
        due = (self.keys[-1], self.count // self._every) if self._every else None
        if due is not None:
            top = max(top, due[1], (max(self._stops, default=1) - 1) // self._every)
        top = min(top, self._epoch + keys.AHEAD)
        lowest = max(0, top - _SEARCH // (len(line) + 1024))
        mac = line[-66:-2].decode("ascii", "replace")
        epochs = range(lowest, top + 1)
        others = ((key, epoch) for key in self._chains for epoch in epochs if (key, epoch) != due)
        return any(self._chains[key].made(line, epoch, mac) for key, epoch in others)

    def _judge(self, entry: form.Entry | None, line: bytes) -> bool:
        """Name what is wrong with a line that is not the one that is due; False where it is a torn end."""
        due, authentic = self.count, self._authentic(entry, line)
        rest = self._look_ahead()
        if not authentic and rest.empty and self._sealed_count() <= due:
            self.torn = len(line)
            return False
        if entry is None or not authentic:
            self._judge_strange(entry, line, rest)
        elif entry[0] == due:
            words = f"Entry {due} does not follow from the one before: it was made anew."
            self._wrong("rewritten", due, words)
        elif entry[0] < due:
            words = f"Entry {entry[0]} is there again, where entry {due} should be."
            self._wrong("duplicated", due, words)
        elif rest.due_later:
            self._wrong("reordered", due, f"Entry {entry[0]} stands before entry {due}.")
        else:
            self._wrong("deleted", due, f"Entry {due} is missing: entry {entry[0]} stands in its place.")
        return True

    def _judge_strange(self, entry: form.Entry | None, line: bytes, rest: _Rest) -> None:
        """Name what is wrong with a line that is not authentic."""
        due = self.count
        if entry is not None and entry[3] != self.log:
            self._wrong("spliced", due, f"The line where entry {due} should be is of another log.")
        elif self._made_otherwise(line, rest.epoch):
            words = f"Entry {due} was made anew, with a key of another epoch or of another secret."
            self._wrong("rewritten", due, words)
        elif rest.next_due:
            self._wrong("inserted", due, f"A line that is not authentic stands before entry {due}.")
        else:
            self._wrong("edited", due, f"The line of entry {due} is not authentic: it was changed.")

    # -- the end

    def _sealed_count(self) -> int:
        """Give how many entries the seal counts; 0 where it is not right."""
        if not self._every:
            return self.seal.as_it_stands
        self.seal.judge_beyond(self.count, self._every, self._chains)
        return self.seal.count

    def _end(self) -> None:
        """Judge what is known only at the end."""
        sealed = self._sealed_count()
        self.torn = self.bodies.end(self.count, sealed < self.count) or self.torn
        self._hold(self._held_to())
        if not self.count and self._told:
            self._wrong("emptied", None, "The log has no entries, though something tells of some.")
        else:
            self._end_of_chain(sealed)
        if self.judge_bodies and self.bodies.first_edited is not None:
            words = f"The body of entry {self.bodies.first_edited} is not the one that was recorded."
            self._wrong("body_edited", self.bodies.first_edited, words)

    def _end_of_chain(self, sealed: int) -> None:
        """Hold the whole log to its seal and its checkpoints."""
        chains = self._chains.values() if self.marks.left else ()
        furthest = self.marks.beyond({self._signer, *(chain.signer() for chain in chains)})
        if sealed > self.count:
            words = f"The log ends after {self.count} entries; its seal counts {sealed}."
            self._wrong("truncated", self.count, words)
        elif furthest > self.count:
            words = f"The log ends after {self.count} entries, as sealed; a checkpoint covers {furthest}."
            self._wrong("rolled_back", self.count, words)
        elif not self.seal.right and (self.seal.given or self.count > 1):
            words = "The log has no right seal: entries at its end may be missing."
            self._wrong("unsealed", None, words)
        elif self.marks.bad:
            self._wrong("checkpoint", None, f"A checkpoint is not right: {self.marks.bad[0]}.")
        elif self.marks.unlike:
            covered = self.marks.covered()
            words = f"From entry {covered} on this is not what a signed checkpoint covers: it was made anew."
            self._wrong("rewritten", covered, words)
        elif not self.seal.fits:
            words = f"Entry {sealed - 1} is not the one that the seal counts last: it was made anew."
            self._wrong("rewritten", sealed - 1, words)
