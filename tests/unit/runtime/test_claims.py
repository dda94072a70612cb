"""What a verb does to another one on the same pod: every cell of the table."""

from __future__ import annotations

import pytest

from podrt.runtime.claims import PREEMPTS, Verb

# Source: semantics.md section 5: a second verb waits, stop pre-empts start, kill ends starts
# (and waits for nothing), rm --force pre-empts all but another removal.
EXPECTED = {
    Verb.STOP: {Verb.START},
    Verb.KILL: {Verb.START, Verb.RESTART},
    Verb.FORCE_REMOVE: set(Verb) - {Verb.REMOVE, Verb.FORCE_REMOVE},
}


@pytest.mark.parametrize("newcomer", list(Verb))
@pytest.mark.parametrize("standing", list(Verb))
def test_preempt_table_has_the_promised_cell(newcomer: Verb, standing: Verb) -> None:
    assert (standing in PREEMPTS[newcomer]) == (standing in EXPECTED.get(newcomer, set()))
