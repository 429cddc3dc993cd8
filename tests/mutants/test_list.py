from collections import Counter

import pytest

from tests.mutants.catalogue import ROOT, Mutant, read

MUTANTS = read()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code_and_its_tests(mutant: Mutant) -> None:
    mutant.mutate(ROOT)
    mutant.check_tests(ROOT)


def test_there_are_sixty_mutants_under_names_of_their_own() -> None:
    assert len(MUTANTS) >= 60
    assert [n for n, c in Counter(m.name for m in MUTANTS).items() if c > 1] == []
    places = Counter((m.module, m.before, m.after) for m in MUTANTS)
    assert max(places.values()) == 1
