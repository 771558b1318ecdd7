import pytest
import torch
from torch.nn import functional as F

from harness.relay_build.measure import fitted_mlp, letter_ensemble


def probabilities(*rows):
    return torch.tensor(rows).log()


OURS = probabilities([0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1])
THEIRS = probabilities([0.1, 0.6, 0.2, 0.1], [0.01, 0.97, 0.01, 0.01])


@pytest.mark.parametrize(("rule", "wanted"), [("mean", [0, 1]), ("product", [0, 1]), ("confident", [0, 1])], ids=str)
def test_ensembles_of_letters_follow_their_rule(rule, wanted):
    assert letter_ensemble(OURS, THEIRS, rule).letters.argmax(-1).tolist() == wanted


def test_the_mean_adds_and_the_product_multiplies():
    mean, product = (letter_ensemble(OURS, THEIRS, rule).letters for rule in ("mean", "product"))
    torch.testing.assert_close(mean.exp(), OURS.exp() + THEIRS.exp())
    torch.testing.assert_close(product.exp(), OURS.exp() * THEIRS.exp())


def test_the_mlp_finds_a_rule_that_neither_models_letters_tell_alone():
    drawn = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randint(4, (3000,), generator=drawn) for _ in range(2))
    features = torch.cat([F.one_hot(letter, 4).float() * 4 for letter in (ours, theirs)], 1)
    keys = (ours + theirs) % 4
    net = fitted_mlp(features[:2000], keys[:2000])
    assert float((net(features[2000:]).argmax(-1) == keys[2000:]).double().mean()) > 0.95
