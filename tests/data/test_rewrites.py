"""Rewriting by rules: every rule by hand, no word of another meaning, grammar, on real captions too."""

import doctest
import json
import random
import re

import numpy as np
import pytest

from cliplet.data import rewrites
from cliplet.data.rewrites import RULES, eda, rewrite, rewrites_by_rule
from cliplet.data.rewrites import words as known
from cliplet.data.rewrites.grammar import is_plural, with_articles
from cliplet.errors import InputError
from cliplet.evaluation.hard_negatives import KINDS, mentioned
from tests.shared_data import shared_data

BY_HAND = {
    "articles": {
        "A dog runs on the beach .": ["Dog runs on beach .", "The dog runs on the beach ."],
        "A few dogs chase the other dog": [],
        "a couple of men": [],
        "Two dogs play": [],
    },
    "synonyms": {
        "A man next to a bicycle .": [
            "A guy next to a bicycle .",
            "A man next to a bike .",
            "A man beside a bicycle .",
        ],
        "An automobile": ["A car"],
        "Two women": ["Two ladies"],
        "A man 's hat": [],
        "A dirt bike": [],  # a bike is no bicycle here
        "Some plants beside": [],
        "a man outside of a house": ["a guy outside of a house"],
    },
    "numbers": {
        "Two small dogs .": ["2 small dogs ."],
        "3 men": ["Three men"],
        "A man with the number 8 jersey": [],
        "two of them": [],
        "A two-story house": [],
        "a 2 year old": [],
    },
    "there_is": {
        "A dog is running on grass .": ["There is a dog running on grass ."],
        "Two dogs running": ["There are two dogs running"],
        "A red car on a road": ["There is a red car on a road"],
        "There is a dog running .": ["A dog is running .", "A dog running .", "Here is a dog running ."],
        "This is a beach.": ["A beach.", "Here is a beach."],
        "The dog is running": [],
        "A boy wearing a hat hits a ball": [],  # it has its verb
        "A dog runs": [],
    },
    "aspect": {
        "A man is riding a horse": ["A man riding a horse", "A man rides a horse"],
        "Two dogs are running": ["Two dogs running", "Two dogs run"],
        "A dog runs": ["A dog is running"],
        "Two dogs run": ["Two dogs are running"],
        "A boy carries a box": ["A boy is carrying a box"],
        "A dog running": ["A dog is running"],
        "A boy wearing a hat hits a ball": [],
        "A man rock climbs": [],
        "A skier wearing red flies off a rock": [],
    },
    "voice": {
        "A man is riding a horse .": ["A horse is being ridden by a man ."],
        "A man rides two horses on the beach .": ["Two horses are ridden by a man on the beach ."],
        "Two boys chasing a dog": ["A dog being chased by two boys"],
        "A dog is being washed by two girls": ["Two girls are washing a dog"],
        "A tennis court is surrounded by some trees": ["Some trees surround a tennis court"],
        "A man is holding a baby in a blanket": [],  # who is in the blanket?
        "A man is riding his horse": [],
        "A man is standing": [],
        "The man is looking at a horse": [],
    },
    "place_first": {
        "A dog is running on the beach .": ["On the beach , a dog is running ."],
        "Two girls play in the snow": ["In the snow, two girls play"],
        "A man looks at a boat on the water": [],  # who is on the water?
        "A dog on the beach": [],
        "A man is smiling and a dog runs on the beach": [],
    },
    "shorter": {
        "A small dog is carrying a stick on the beach .": ["A small dog is carrying a stick ."],
        "A big intersection with no cars at all on the road": [],  # none there, some elsewhere
        "A dog runs on grass": [],
        "A small boy in a red hat covered in mud": [],
        "A boy jumping on a wall with a hill in the background": [],
    },
    "with_on": {
        "A table with a cake on it .": ["A cake on a table ."],
        "Two people on a bench": ["A bench with two people on it"],
        "Two children in a pool": ["A pool with two children in it"],
        "A dog next to a bench": ["A bench next to a dog"],
        "A man with a hat": [],
        "A man on the phone": [],
    },
}
LITTLE = set("a an the is are being by there here with on in at it".split())  # noqa: SIM905


@pytest.mark.parametrize(
    ("rule", "caption"), [(rule, caption) for rule, cases in BY_HAND.items() for caption in cases]
)
def test_by_hand(rule, caption):
    assert sorted(rewrites_by_rule(caption, [rule]).get(rule, [])) == sorted(BY_HAND[rule][caption])


def test_every_rule_is_tried():
    assert set(BY_HAND) == set(RULES)


def test_examples():
    result = doctest.testmod(rewrites)
    assert result.attempted == 2
    assert result.failed == 0


def tokens(text):
    return re.findall(r"[a-z0-9]+(?:['’-][a-z0-9]+)*", text.lower())


def foreign(before, after):
    """Words of a rewrite that nothing in the caption stands behind."""
    own, verbs = tokens(before), known.verbs() | known.participles()
    allowed = set(own) | LITTLE
    for word in own:
        allowed |= set(known.NOUNS.get(word, ())) | {
            known.NUMBERS.get(word, ""),
            known.WORDS_OF.get(word, ""),
        }
        verb = verbs.get(word)
        allowed |= {verb.base, verb.s, verb.ing, verb.participle} if verb else set()
    for phrase, others in known.PHRASES.items():
        if phrase in before.lower():
            allowed |= {word for other in others for word in tokens(other)}
    return set(tokens(after)) - allowed


def lost(before, after):
    """Words of a caption that are neither in the rewrite nor have a counterpart there."""
    phrases = {
        w for p, others in known.PHRASES.items() if any(o in after.lower() for o in others) for w in tokens(p)
    }
    nouns = {w for w in tokens(before) if set(known.NOUNS.get(w, ())) & set(tokens(after))}
    return foreign(after, before) - phrases - nouns - {"this", "these"}


def wrong_grammar(text):
    """What is wrong with articles and with "is" and "are", as far as it can be told."""
    if with_articles(text) != text:
        return "a or an"
    if re.search(r"\b(?:a|an|the) (?:a|an|the|his|her|two|three)\b", text, re.IGNORECASE):
        return "two determiners"
    match = re.match(r"(?:There )?((?:An?|Two|Three|Several)(?: [a-z]+){1,3}?) (is|are)\b", text)
    if match and is_plural(match.group(1)) not in (None, match.group(2) == "are"):
        return "is or are"
    return ""


def captions(count=2000):
    lines = shared_data("flickr8k/Flickr8k.token.txt").read_text(encoding="utf-8").splitlines()
    train = set(shared_data("flickr8k/split_train.txt").read_text().split())
    own = [line.split("\t")[1].strip() for line in lines if line.split("#")[0] in train]
    return random.Random(3).sample(own, count)


def aerial(count=1000):
    own = json.loads(shared_data("ucm-captions/captions_train.json").read_text())
    return random.Random(3).sample(sorted({c for several in own.values() for c in several}), count)


@pytest.mark.parametrize("source", [captions, aerial])
def test_real_captions_get_no_word_of_another_meaning_and_keep_their_grammar(source):
    made = 0
    for caption in source():
        for rule, own in rewrites_by_rule(caption).items():
            for new in own:
                made += 1
                assert not foreign(caption, new), (rule, caption, new)
                if rule not in ("shorter", "articles"):
                    assert not lost(caption, new), (rule, caption, new)
                if not wrong_grammar(caption):
                    assert not wrong_grammar(new), (rule, caption, new)
                assert new[0].islower() == caption[0].islower() or not new[0].isalpha()
                assert new.endswith(".") == caption.rstrip().endswith(".")
    assert made > 1000


def test_real_captions_lie_near_their_rewrites():
    pytest.importorskip("torch")
    from cliplet.encoders.sentence import SentenceEncoder

    try:
        encoder = SentenceEncoder.from_name("minilm-l6")
    except Exception as error:
        pytest.skip(f"no sentence encoder: {error}")
    pairs = [
        (rule, caption, own[0])
        for caption in captions(400)
        for rule, own in rewrites_by_rule(caption).items()
    ]
    for rule in ("articles", "synonyms", "numbers", "there_is", "aspect", "place_first"):
        own = [(a, b) for name, a, b in pairs if name == rule][:15]
        a, b = (encoder.encode_texts(list(texts)) for texts in zip(*own, strict=True))
        assert np.mean((a * b).sum(axis=1) >= 0.9) >= 0.9, rule


def test_no_rewrite_is_taken_for_a_false_caption():
    for alike in known.ALIKE:
        assert (
            len(
                {
                    frozenset(mentioned([word], kind))
                    for word in alike
                    for kind in KINDS
                    if mentioned([word], kind)
                }
            )
            <= 1
        )


def test_seed_and_turns():
    caption = "Two men are riding a horse on the beach ."
    every = rewrite(caption, rules=tuple(RULES))
    assert len(every) == len(set(every)) > 6
    assert rewrite(caption, seed=1, rules=tuple(RULES)) != every
    assert sorted(rewrite(caption, seed=1, rules=tuple(RULES))) == sorted(every)
    assert rewrite(caption, most=3, rules=tuple(RULES)) == every[:3]
    rule_of = {new: rule for rule, own in rewrites_by_rule(caption).items() for new in own}
    assert len({rule_of[new] for new in every[:4]}) == 4


def test_a_shorter_caption_only_on_demand():
    caption = "A small dog is carrying a stick on the beach ."
    assert "A small dog is carrying a stick ." not in rewrite(caption)
    assert "A small dog is carrying a stick ." in rewrite(caption, rules=["shorter", "voice"])


def test_what_no_rule_reads():
    assert rewrite("") == rewrite("  . ") == rewrite("Ein Hund läuft") == []
    assert rewrite("A man runs. A dog sits.") == []  # two sentences
    with pytest.raises(InputError, match="unknown rewriting rule 'voices'"):
        rewrite("a dog", rules=["voices"])


def test_eda_leaves_out_and_swaps():
    caption = "a b c d e f g h i j k l m n o ."
    made = eda(caption, most=4)
    assert [len(new.split()) for new in made] == [14, 16, 14, 16]  # two words in ten
    assert sorted(made[1].split()) == sorted(caption.split())
    assert sum(a != b for a, b in zip(made[1].split(), caption.split(), strict=True)) <= 4
    assert all(new.endswith(" .") for new in made)
    assert eda(caption) == eda(caption) != eda(caption, seed=1)
    assert eda("a dog") == []
