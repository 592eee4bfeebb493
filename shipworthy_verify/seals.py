"""The seal: which of its two places is right, and how many entries it counts."""

from __future__ import annotations

from . import form, keys


class Seal:
    """A log's seal, judged while the log is read."""

    def __init__(self, seal: bytes | None) -> None:
        self.given = bool(seal and seal.strip(b" \n\0"))
        self.slots = form.slots(seal)
        self._fits: dict[int, bool] = {}  # by the count of each right place: whether its mac is the entry's
        self._beyond = 0

    def hold(self, log: str) -> set[int]:
        """Leave other logs aside; give the numbers of entries that are counted."""
        self.slots = [slot for slot in self.slots if slot.log == log]
        return {slot.entries for slot in self.slots}

    def judge(self, entries: int, mac: str, key: bytes) -> None:
        """Judge what counts exactly these entries; the key is the one that made the last of them."""
        for slot in self.slots:
            if slot.entries == entries and _right(slot, key):
                self._fits[entries] = self._fits.get(entries, False) or slot.mac == mac

    def judge_beyond(self, entries: int, every: int, chains: dict[str, keys.Chain]) -> None:
        """Judge what counts more entries than there are, under any key that there may be."""
        for slot in self.slots:
            epoch = (slot.entries - 1) // every
            if slot.entries <= entries or epoch > entries // every + keys.AHEAD:
                continue
            if any(_right(slot, chain.key(epoch)) for chain in chains.values()):
                self._beyond = max(self._beyond, slot.entries)

    @property
    def right(self) -> bool:
        """Whether any place is right."""
        return bool(self._fits) or self._beyond > 0

    @property
    def count(self) -> int:
        """Give how many entries are sealed; 0 where nothing is right."""
        return max(self._beyond, max(self._fits, default=0))

    @property
    def fits(self) -> bool:
        """Whether the mac of the place that holds is that of the entry that it counts last."""
        return self._fits.get(self.count, True)

    @property
    def as_it_stands(self) -> int:
        """Give how many entries it claims."""
        return max((slot.entries for slot in self.slots), default=0)


def _right(slot: form.Slot, key: bytes) -> bool:
    text = bytes.fromhex(slot.log) + slot.entries.to_bytes(8, "big") + bytes.fromhex(slot.mac)
    return keys.make(key, b"shipworthy audit seal v1" + text).hex() == slot.seal
