"""The lock table without shared memory: slow, plain, and the oracle of the real one."""

from __future__ import annotations

from dataclasses import dataclass, field

CHUNK_ENTRIES = 4096


@dataclass
class PlainProcess:
    """Somebody who holds locks, until it dies."""

    is_alive: bool = True


@dataclass
class PlainClaim:
    """An operation claim; its identity is the object's."""

    verb: int
    owner: PlainProcess
    preempted_by: int = 0


@dataclass
class PlainLock:
    """One entry."""

    owner_id: bytes = b""
    holder: PlainProcess | None = None
    claim: PlainClaim | None = None


@dataclass
class PlainTable:
    """What all processes see."""

    capacity: int = CHUNK_ENTRIES
    locks: dict[int, PlainLock] = field(default_factory=dict)

    def lock(self, index: int) -> PlainLock:
        return self.locks.setdefault(index, PlainLock())

    def allocate(self, owner_id: bytes) -> int:
        index = next(i for i in range(1, 1 << 30) if not self.lock(i).owner_id)
        while index >= self.capacity:
            self.capacity += CHUNK_ENTRIES
        self.lock(index).owner_id = owner_id
        self.lock(index).claim = None
        return index

    def free(self, index: int, owner_id: bytes) -> bool:
        if self.lock(index).owner_id != owner_id:
            return False
        self.lock(index).owner_id = b""
        return True

    def acquire(self, process: PlainProcess, index: int) -> int:
        lock = self.lock(index)
        if lock.holder is not None and lock.holder.is_alive:
            return 0
        died = lock.holder is not None
        lock.holder = process
        return 2 if died else 1

    def release(self, process: PlainProcess, index: int) -> bool:
        """False when it is not the process's to release."""
        if self.lock(index).holder is not process:
            return False
        self.lock(index).holder = None
        return True

    def claim(self, process: PlainProcess, index: int, verb: int) -> PlainClaim | None:
        lock = self.lock(index)
        if lock.claim is not None and lock.claim.owner.is_alive:
            return None
        lock.claim = PlainClaim(verb, process)
        return lock.claim

    def drop(self, index: int, claim: PlainClaim) -> bool:
        if self.lock(index).claim is not claim:
            return False
        self.lock(index).claim = None
        return True

    def preempt(self, index: int, claim: PlainClaim, verb: int) -> bool:
        if self.lock(index).claim is not claim:
            return False
        claim.preempted_by = max(claim.preempted_by, verb)
        return True
