"""Verifying a log, line by line and in flat memory, by the table of docs/reference/audit-format.md. Total: whatever the
lines are, there is a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from shipworthy.domain.audit import FORMAT, Entry, EpochKeys, Verdict
from shipworthy.rules.audit import form
from shipworthy.rules.audit.besides import Beside
from shipworthy.rules.audit.chain import BEGUN, ROTATED, Seal
from shipworthy.rules.audit.epochs import TAIL, Epochs, Stamp
from shipworthy.rules.audit.formed import LOG, is_formed, is_written
from shipworthy.rules.audit.heads import NEVER, Heads
from shipworthy.rules.audit.keys import mac
from shipworthy.rules.audit.sealing import Seals
from shipworthy.rules.audit.verdicts import Finding, Report, windows

CLOCK = 5_000
"""Milliseconds that clocks may differ by."""
_MOST_EVERY = 1 << 31
_AHEAD = 1 << 16
"""Epochs beyond all that is told of in which an entry is looked for."""
_NONE = Stamp(b"")


class _Suspect(NamedTuple):
    """A line that is not authentic, where an entry is due."""

    text: bytes
    line: int
    spliced: bool


class Verifier:
    """Holds a log's lines to its format, from the first to the last. *checkpoints* and *anchored* (an iterable for each
    anchor) are read in step with the lines, so they are best in the order of their entries."""

    def __init__(
        self,
        secrets: Sequence[EpochKeys],
        *,
        seals: Sequence[Seal] = (),
        checkpoints: Iterable[bytes] = (),
        anchored: Sequence[Iterable[bytes]] = (),
        expected_log: str | None = None,
    ) -> None:
        self._secrets = list({secret.id: secret for secret in secrets}.values())
        self._seals = Seals(seals)
        self._heads = Heads(checkpoints, anchored)
        self._anchors = len(anchored)
        self._expected = expected_log
        self._told = bool(seals) or expected_log is not None or self._heads.tells()
        self._bodies = Beside()
        self._log: str | None = None
        self._name: str | None = None
        self._every = 0
        """0: entry 0 was not authentic, and nothing is known of it."""
        self._epochs: list[Epochs] = []
        self._now: Epochs | None = None
        self._signer = ""
        self._forward = False
        self._used: list[str] = []
        self._due, self._last, self._high = 0, form.ZEROS, 0
        self._epoch, self._turns, self._stamp = 0, 0, _NONE
        self._stop = 0
        """How many entries there are when a seal or a checkpoint is due next."""
        self._line = 0
        self._torn = 0
        self._suspect: _Suspect | None = None
        self._ahead: Finding | None = None
        self._found: Finding | None = None
        self._clock: Finding | None = None
        self._looking = False

    @property
    def entries(self) -> int:
        """How many entries stand as they were made, as far as was read."""
        return self._due

    def feed(self, line: bytes, whole: bool = True) -> None:
        """The next line, without its newline. *whole*: it had one, which only the last line may not."""
        self._line += 1
        if line.startswith((b'{"body":', b'{"erased":')):
            self._feed_body(line, whole)
            return
        entry = form.entry_of(line)
        if self._log is None:
            self._begin(entry, line)
        if self._looking:
            self._look(entry, line)
        elif (
            entry is not None
            and entry.seq == self._due
            and entry.prev == self._last
            and entry.log == self._log
            and entry.epoch == self._epoch
            and self._every
            and self._stamp.is_right(line)
            and is_formed(entry)
        ):
            self._accept(entry, line)
        else:
            self._stray(entry, line)

    # the first line

    def _begin(self, entry: Entry | None, line: bytes) -> None:
        facts: Any = {} if entry is None or (entry.seq, entry.action) != (0, BEGUN) else entry.facts
        key, every = facts.get("key"), facts.get("every")
        secret = next((each for each in self._secrets if each.id == key), None)
        if entry is not None and isinstance(key, str) and secret is None:
            self._hold_to(entry.log)
            self._find("wrong_key", 0, f"Entry 0 names the key {key}; {self._have()}.")
            return
        if entry is not None and secret is not None and LOG.match(entry.log):
            fits = type(every) is int and 0 < every < _MOST_EVERY and not entry.epoch and entry.v == FORMAT
            if fits and Epochs(secret, entry.log).stamp(0).is_right(line):
                self._every = every
                self._hold_to(entry.log)
                self._make_with(secret.id)
                self._forward = facts.get("sealed") is True
                self._name = str(facts.get("name"))
                self._is_expected(entry.log)
                return
        claimed = None if entry is None else entry.log
        self._hold_to(self._expected or self._heads.expected() or self._seals.log or claimed or "")

    def _hold_to(self, log: str) -> None:
        self._log = log
        if LOG.match(log):
            self._epochs = [Epochs(secret, log) for secret in self._secrets]
        self._heads.begin(log)
        self._seals.begin(log, self._every)
        self._stop = min(self._heads.due, self._seals.due)

    def _make_with(self, key: str) -> bool:
        """Entries are made with this key from now on. False: there is no secret of it."""
        for epochs in self._epochs:
            if epochs.id == key:
                self._now, self._signer = epochs, epochs.signer
                self._used.append(key)
                self._turn()
                return True
        return False

    def _is_expected(self, log: str) -> None:
        other = self._seals.foreign() if self._expected in (None, log) else self._expected
        if other is not None:
            self._find("swapped", 0, f"This is the log {log}, and {other} is expected here.")

    def _have(self) -> str:
        return (
            "no secret was given"
            if not self._secrets
            else f"given was {', '.join(s.id for s in self._secrets)}"
        )

    # entries

    def _accept(self, entry: Entry, line: bytes) -> None:
        self._due = due = self._due + 1
        self._last = line[-66:-2].decode()
        if entry.logged > self._high:
            self._high = entry.logged
        elif entry.logged < self._high - CLOCK and self._clock is None:
            back = self._high - entry.logged
            what = f"Entry {entry.seq} was made {back / 1000:.1f} s before one that it follows."
            self._clock = Finding("clock_back", entry.seq, self._line, what)
        self._bodies.expect(entry.seq, entry.body)
        if self._heads.due != NEVER:
            self._heads.tree.add(line)
        sealed = due == self._stop and self._seals.due == due
        if sealed and self._now is not None:
            self._seals.reached(self._now, self._last)
        if entry.action == ROTATED:
            self._rotate(entry)
        if due == self._stop:
            if self._heads.due == due:
                self._heads.reached(self._signer)
            self._stop = min(self._heads.due, self._seals.due)
        if due == self._turns:
            self._turn()

    def _turn(self) -> None:
        """The next entry is of another epoch, or made with another secret."""
        self._epoch = self._due // self._every
        self._turns = (self._epoch + 1) * self._every
        if self._now is not None:
            self._stamp = Stamp(self._now.key(self._epoch))

    def _rotate(self, entry: Entry) -> None:
        key = entry.facts.get("key")
        if not self._make_with(str(key)):
            what = f"Entry {entry.seq} names the key {key} for what follows; {self._have()}."
            self._find("wrong_key", entry.seq, what)
        elif "sealed" in entry.facts:
            self._forward = self._forward and entry.facts["sealed"] is True

    def _stray(self, entry: Entry | None, line: bytes) -> None:
        """A line that is not the entry that is due."""
        due = self._due
        if entry is not None and is_formed(entry):
            if entry.log != self._log and is_written(entry, line):
                self._doubt(line, spliced=True)
                return
            if self._is_authentic(entry, line):
                if entry.seq == due:
                    self._find("rewritten", due, f"Entry {due} does not follow the one before it.")
                elif entry.seq < due:
                    self._find(
                        "duplicated", due, f"Where entry {due} is due, entry {entry.seq} stands again."
                    )
                else:
                    what = f"Where entry {due} is due, entry {entry.seq} stands"
                    self._ahead = Finding("deleted", due, self._line, what)
                    self._looking = True
                return
        self._doubt(line, spliced=False)

    def _doubt(self, line: bytes, *, spliced: bool) -> None:
        self._suspect = _Suspect(line, self._line, spliced)
        self._looking = True

    def _is_authentic(self, entry: Entry, line: bytes) -> bool:
        if self._every and entry.epoch != entry.seq // self._every:
            return False
        if not 0 <= entry.epoch <= self._limit():
            return False
        if entry.seq == self._due and not self._looking:
            return bool(self._every) and self._now is not None and self._now.stamp(entry.epoch).is_right(line)
        return any([epochs.stamp(entry.epoch).is_right(line) for epochs in self._epochs])

    def _limit(self) -> int:
        """The last epoch that entries are looked for in."""
        return (self._due + self._line) // (self._every or 1) + _AHEAD

    def _look(self, entry: Entry | None, line: bytes) -> None:
        """What comes after a line that is not the entry that is due says what was done."""
        if self._found is not None:
            return
        if self._suspect is not None and self._suspect.spliced:
            self._settle("edited")
            return
        due = self._due
        if entry is None or not is_formed(entry) or entry.log != self._log or entry.seq < due:
            return
        if self._ahead is not None:
            if entry.seq == due and self._is_authentic(entry, line):
                what = f"{self._ahead.what}; entry {due} comes later, in line {self._line}."
                self._found = self._ahead._replace(verdict="reordered", what=what)
        elif self._is_authentic(entry, line):
            self._settle("inserted" if entry.seq == due else "edited")

    def _settle(self, verdict: Verdict) -> None:
        """What was done to the line that is suspected."""
        at, due = self._suspect, self._due
        if at is None:
            return
        if at.spliced:
            verdict, what = "spliced", f"Line {at.line} is of another log."
        elif self._is_rewritten(at.text):
            verdict, what = (
                "rewritten",
                f"Line {at.line} is made with another key than entry {due} is due of.",
            )
        elif verdict == "inserted":
            what = f"Line {at.line} is not authentic, and entry {due} comes after it."
        else:
            what = f"Line {at.line}, where entry {due} is due, is not authentic."
        self._found = Finding(verdict, due, at.line, what)

    def _is_rewritten(self, line: bytes) -> bool:
        """Whether it is made with a key of the log, of whatever epoch."""
        end = max(self._due + self._line, self._seals.most, self._heads.beyond)
        last = min(end // (self._every or 1), self._limit()) + 1
        claimed, plain = form.mac_of(line), line[:-TAIL] + b"}"
        if not claimed:
            return False
        return any(
            [mac(epochs.key(n), plain).hex() == claimed for epochs in self._epochs for n in range(last)]
        )

    def _find(self, verdict: Verdict, seq: int | None, what: str) -> None:
        if self._found is None:
            self._found = Finding(verdict, seq, None if seq is None else self._line, what)
        self._looking = True

    # bodies

    def _feed_body(self, line: bytes, whole: bool) -> None:
        if self._looking:
            self._look(None, line)
        elif not self._bodies.take(line, self._due - 1, whole or self._due <= self._sealed(), whole):
            self._torn = len(line)

    # the end

    def _sealed(self) -> int:
        """How many entries the seal counts; 0 without a right one."""
        return self._seals.count(self._now, self._epochs) if self._every else self._seals.claimed

    def report(self, *, missing: bool = False) -> Report:
        """What was found in all. *missing*: there is no such log."""
        if self._log is None:
            self._hold_to(self._expected or self._heads.expected() or self._seals.log or "")
        suspect = self._suspect
        if self._found is None and suspect is not None:
            if suspect.line == self._line and self._due >= self._sealed():
                self._torn = len(suspect.text)
            else:
                self._settle("edited")
        elif self._found is None and self._ahead is not None:
            self._found = self._ahead._replace(
                what=f"{self._ahead.what}; entry {self._due} is nowhere after it."
            )
        self._heads.finish(self._signers, self._log or "")
        self._bodies.finish()
        found = self._found or self._at_end(missing)
        if self._expected is None and self._every and (other := self._heads.foreign(self._signers)):
            found = Finding(
                "swapped", 0, 1, f"This is the log {self._log}, and an anchor's newest is {other}."
            )
        also = ""
        if self._clock is not None and found.verdict != "swapped":
            also = "" if found.verdict == "ok" else f"{found.verdict}: {found.what}"
            found = self._clock
        return self._reported(found, also)

    def _at_end(self, missing: bool) -> Finding:
        due, heads = self._due, self._heads
        if missing:
            return Finding("missing", None, None, "There is no such log.")
        if not due:
            verdict: Verdict = "emptied" if self._told else "ok"
            return Finding(verdict, None, None, "There are no entries.")
        if (sealed := self._sealed()) > due:
            return Finding("truncated", due, None, f"There are {due} entries, and the seal counts {sealed}.")
        if heads.beyond > due:
            what = f"There are {due} entries, and a checkpoint covers {heads.beyond}."
            return Finding("rolled_back", due, None, what)
        if not sealed and (due > 1 or self._seals.most):  # one that has only begun may have none yet
            return Finding("unsealed", None, None, "The log has no seal that is right.")
        if heads.unsigned:
            return Finding("checkpoint", None, None, f"Not signed by the log's signer: {heads.unsigned[0]}.")
        if self._seals.rewritten:
            what = f"The seal's entry {sealed - 1} is another one than the log's."
            return Finding("rewritten", sealed - 1, None, what)
        if heads.rewritten:
            what = f"A checkpoint tells of other entries; it is among those from {heads.sound} on."
            return Finding("rewritten", heads.sound, None, what)
        if self._bodies.first is not None:
            what = f"The body beside entry {self._bodies.first} does not fit it."
            return Finding("body_edited", self._bodies.first, None, what)
        return Finding("ok", None, None, f"{due} entries.")

    def _signers(self, log: str) -> Sequence[str]:
        if log == self._log:
            return [epochs.signer for epochs in self._epochs]
        return [Epochs(secret, log).signer for secret in self._secrets] if LOG.match(log) else []

    def _reported(self, found: Finding, also: str) -> Report:
        anchored = self._heads.anchored
        open_windows = windows(
            entries=self._due,
            anchored=anchored,
            any_anchor=self._anchors > 0,
            forward_secure=self._forward,
        )
        return Report(
            verdict=found.verdict,
            seq=found.seq,
            line=found.line,
            what=found.what,
            also=also,
            entries=self._due,
            bodies=self._bodies.counts(),
            log=self._log or None,
            name=self._name,
            keys=tuple(self._used),
            forward_secure=self._forward,
            checkpoints=self._heads.seen,
            anchored=anchored,
            torn=self._torn,
            windows=open_windows,
        )
