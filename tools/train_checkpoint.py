#!/usr/bin/env python3
"""Make the project's own checkpoint: corpus, tokenizer, training, export, golden ids.

The engine's tests need a trained grouped-query model whose text falls apart visibly when
attention is wrong. This script writes one from nothing but its own story grammar:

    train_checkpoint.py train --out models        # a few minutes on one GPU
    train_checkpoint.py check models/stories-gqa.bin models/stories-gqa.golden_ids.txt
    train_checkpoint.py ablate models/stories-gqa.bin models/stories-gqa.model

`check` works on any llama2.c "legacy" float32 checkpoint: it decodes greedily with the plain
PyTorch model below, compares with the stored ids and reports the smallest top-1/top-2 margin.
`ablate` shows what the same weights write when attention is broken in several ways.

Needs PyTorch, sentencepiece and numpy.
"""

import argparse
import itertools
import math
import random
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from torch import nn

UNK, BOS, EOS = 0, 1, 2
CHECKPOINT_NAME = "stories-gqa"
GOLDEN_PROMPT = "Once upon a time, there was a brave boy named Hugo. Hugo had a silver bell"


# ------------------------------------------------------------------------------------------
# 1. Story grammar
# ------------------------------------------------------------------------------------------
# Every story fixes its facts early (names, colours, objects, places, an order of events) and
# needs them again many sentences later, so that only a model that looks far back can go on
# correctly. Options are listed most likely first: `Storyteller.pick` prefers the head of a list,
# which keeps greedy decoding away from near-ties.

GIRLS = "Lily Nora Mia Clara Ruby Tess Wanda Ivy Juno Freya Olga Poppy Bella Greta Zoe Hazel Dora Kira Una Elsa".split()
BOYS = "Tom Hugo Max Felix Otto Sam Jonas Ravi Leo Karl Oscar Ben Yuri Paul Finn Gus Noah Emil Dan Victor".split()
ANIMALS = "rabbit dog cat fox duck bear mouse goat pony hen owl frog".split()
PETS = "Pip Biscuit Momo Dusty Bramble Tilly Fudge Kiki Waffle Jasper Nibs Coco".split()
ELDERS = ["Grandma", "Grandpa", "Uncle Ned", "Aunt Rosa", "Mama", "Papa"]
TRAITS = "little brave kind clever quiet cheerful curious gentle busy small".split()
COLOURS = "red blue green golden white silver yellow purple pink brown".split()
TREASURES = "kite ball drum book hat bell boat doll scarf ring cup lamp".split()
SAD = "sad upset unhappy worried lonely".split()
GLAD = "happy glad proud cheerful pleased".split()
WEATHER = "sunny windy cold bright rainy foggy warm snowy".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
TRIFLES = ["an old boot", "two snails", "a broken cup", "a sleepy frog", "a rusty nail", "three feathers"]
# Place -> where things hide there.
SPOTS = {
    "garden": ["under the apple tree", "behind the roses", "beside the bean rows"],
    "forest": ["inside a hollow log", "under the tall ferns", "behind an oak"],
    "beach": ["beside a sand castle", "behind a grey rock", "under a wooden boat"],
    "park": ["under the long bench", "near the swings", "behind the fountain"],
    "farm": ["inside the barn", "beside the hay cart", "under the gate"],
    "river": ["under the stone bridge", "between the reeds", "beside the water wheel"],
    "market": ["under the fruit stand", "behind the fish barrels", "beside the baker's cart"],
    "hill": ["near the old tower", "under a thorn bush", "behind the windmill"],
    "school": ["under the teacher's desk", "behind the blackboard", "on the coat rack"],
}
# Packed thing -> (trouble that calls for it, how it helps).
TOOLS = {
    "rope": ("the bridge was broken", "tied it to a tree and they swung across"),
    "lamp": ("the cave was dark", "lit it and they saw the way"),
    "map": ("the path split in three", "read it and they chose the right path"),
    "blanket": ("the night grew cold", "spread it over both of them"),
    "cake": ("a hungry giant stood in the way", "gave it to the giant, who smiled and let them pass"),
    "whistle": ("a thick fog came down", "blew it until a shepherd came to guide them"),
    "umbrella": ("heavy rain began to fall", "opened it and they stayed dry"),
    "flute": ("a dragon growled at them", "played it until the dragon fell asleep"),
}
# Wanted skill -> (past tense, where it is practised, first mishap).
SKILLS = {
    "swim": ("swam", "lake", "swallowed a lot of water"),
    "skate": ("skated", "frozen pond", "fell on the ice"),
    "climb": ("climbed", "tallest tree", "slid back down"),
    "dance": ("danced", "village square", "stepped on every toe"),
    "paint": ("painted", "old mill", "spilled all the paint"),
    "juggle": ("juggled", "town hall", "dropped all the balls"),
    "sing": ("sang", "bell tower", "forgot all the words"),
    "sail": ("sailed", "harbour", "tipped the boat over"),
}
# People along the road -> what they give away.
TRADES = {
    "baker": "a warm loaf", "farmer": "a basket of plums", "fisher": "a silver fish", "miller": "a bag of flour",
    "weaver": "a woollen sock", "gardener": "a bunch of tulips", "potter": "a clay bowl", "beekeeper": "a jar of honey",
}
# What is wrong with a found animal -> what makes it well.
HURTS = {
    "a hurt wing": "a soft bandage", "a sore foot": "a cool leaf", "a thorn in its side": "a careful hand",
    "nothing to eat": "bread and milk", "a bad cough": "warm honey tea",
}
FOUNDLINGS = "bird kitten hedgehog puppy squirrel turtle lamb robin".split()
# Present -> (what it is made from, the two things to gather).
PRESENTS = {
    "a cherry pie": ("cherries", "butter"), "a warm coat": ("wool", "buttons"), "a wooden chair": ("planks", "nails"),
    "a paper lantern": ("paper", "candles"), "a bead necklace": ("beads", "string"), "a fruit salad": ("pears", "grapes"),
}


@dataclass(frozen=True)
class Character:
    """Somebody in a story, with the pronouns that must agree with them."""

    name: str
    kind: str
    subj: str
    obj: str
    poss: str

    @property
    def Subj(self):
        return self.subj.capitalize()


def a(phrase):
    """The phrase with its indefinite article."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


class Storyteller:
    """Tells endless different stories from one seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.families = [self.lost, self.packed, self.learned, self.rescued, self.shared, self.errand, self.present]

    def pick(self, options, count=None):
        """One option, or `count` different ones; earlier options are likelier (rank^-1/2)."""
        pool, chosen = list(options), []
        for _ in range(count or 1):
            weights = [(rank + 1) ** -0.5 for rank in range(len(pool))]
            chosen.append(pool.pop(self.random.choices(range(len(pool)), weights)[0]))
        return chosen if count else chosen[0]

    def child(self, exclude=()):
        """A girl or a boy whose name is not among `exclude`."""
        girl = self.random.random() < 0.6
        name = self.pick([n for n in (GIRLS if girl else BOYS) if n not in exclude])
        return Character(name, "girl", "she", "her", "her") if girl else Character(name, "boy", "he", "him", "his")

    def animal(self):
        """A named animal friend."""
        she = self.random.random() < 0.4
        pronouns = ("she", "her", "her") if she else ("he", "him", "his")
        return Character(self.pick(PETS), self.pick(ANIMALS), *pronouns)

    def shelf(self):
        """Endless stories in a row; neighbours on the shelf differ in heroes and in kind."""
        told, last = [], None
        while True:
            last = self.pick([family for family in self.families if family != last])
            hero = self.child(exclude=told)
            told = [*told, hero.name][-8:]
            yield last(hero)

    def opening(self, hero):
        trait = self.pick(TRAITS)
        return self.pick([
            f"Once upon a time, there was {a(trait)} {hero.kind} named {hero.name}.",
            f"In a town by the sea lived {a(trait)} {hero.kind} named {hero.name}.",
            f"There once was {a(trait)} {hero.kind}. {hero.Subj} was called {hero.name}.",
            f"{hero.name} was {a(trait)} {hero.kind} who lived near a {self.pick(list(SPOTS))}.",
        ])

    def lost(self, hero):
        """A treasure is lost and found in the second of two places named before."""
        friend, elder = self.animal(), self.pick(ELDERS)
        thing = f"{self.pick(COLOURS)} {self.pick(TREASURES)}"
        first, second = self.pick(list(SPOTS), 2)
        feeling, trifle = self.pick(SAD), self.pick(TRIFLES)
        spot = self.pick(SPOTS[second])
        return [
            f"{self.opening(hero)} {hero.name} had a {thing} from {elder}. "
            + self.pick([f"{hero.Subj} loved it more than anything.", f"{hero.Subj} took it everywhere.",
                         f"Nothing made {hero.obj} smile like that {thing.split()[1]}."])
            + f" One {self.pick(WEATHER)} day {hero.subj} took it to the {first} and then to the {second}.",
            self.pick([f"In the evening the {thing} was gone.", f"When {hero.subj} came home, the {thing} was gone."])
            + f" {hero.name} was very {feeling}. A {friend.kind} named {friend.name} left {friend.poss} lunch"
            f" to comfort {hero.obj}."
            f' "Why are you so {feeling}, {hero.name}?" asked the {friend.kind}.'
            f' "I lost the {thing} that {elder} gave me," said {hero.name}.'
            f' "{self.pick(["Let us look for it", "I will help you", "We will find it"])}," said {friend.name}.',
            f"First they went to the {first}, but they only found {trifle}. Then they went to the {second}."
            f" {friend.name} followed {friend.poss} nose and looked {spot}. There was the {thing}!",
            f'"Thank you, {friend.name}," said {hero.name}. '
            + self.pick([f"{hero.Subj} was not {feeling} any more.", f"{hero.Subj} hugged the {friend.kind}."])
            + f" That night {hero.name} told {elder} how {friend.name} the {friend.kind} had found the {thing} {spot}.",
        ]

    def packed(self, hero):
        """Three packed things are each needed once, in another order."""
        friend = self.animal()
        goal = self.pick(["castle", "mountain", "lighthouse", "island", "palace"])
        things = self.pick(list(TOOLS), 3)
        packing = f"{a(things[0])}, {a(things[1])} and {a(things[2])}"
        steps = []
        for opener, thing in zip(["Soon", "Later", "At last"], self.pick(things, 3)):
            trouble, remedy = TOOLS[thing]
            who = self.pick([hero, friend])
            steps.append(f"{opener} {trouble}. {who.name} took the {thing} in {who.poss} hands and {remedy}.")
        return [
            f"{self.opening(hero)} {hero.Subj} wanted to see the {goal} with {hero.poss} friend {friend.name}, "
            f"{a(self.pick(TRAITS))} {friend.kind}. {hero.name} packed {packing}."
            f' "{self.pick(["Why so many things", "Do we need all that", "What is that for"])}?" asked {friend.name}.'
            f' "{self.pick(["You will see", "Wait and see", "Just in case"])}," said {hero.name}.',
            " ".join(steps),
            f"So {hero.name} and {friend.name} came to the {goal}. "
            + self.pick([f"They were very {self.pick(GLAD)}.", "They sat down and laughed."])
            + f' "Now I know why you packed {packing}," said the {friend.kind} and shook {friend.poss} head.',
        ]

    def learned(self, hero):
        """A skill fails on one day, is taught by somebody and works on a later day."""
        teacher = self.child(exclude=[hero.name])
        relation = "sister" if teacher.kind == "girl" else "brother"
        skill, (past, place, mishap) = self.pick(list(SKILLS.items()))
        day = self.pick(range(5))
        prize = f"{self.pick(COLOURS)} {self.pick(['ribbon', 'medal', 'star', 'flag'])}"
        return [
            f"{self.opening(hero)} {hero.name} wanted to {skill}, but {hero.subj} did not know how."
            f" {hero.poss.capitalize()} {relation} {teacher.name} could {skill} very well"
            f" and had won a {prize}.",
            f"On {DAYS[day]} {hero.name} went to the {place} and tried to {skill}. {hero.Subj} {mishap}."
            f" Everyone laughed and {hero.name} felt {self.pick(SAD)}."
            f' "{self.pick(["I will never learn", "It is too hard", "I cannot do it"])}," {hero.subj} said.'
            f' "{self.pick(["Nobody learns in one day", "Try again with me", "I will show you how"])}," said {teacher.name}.',
            f"On {DAYS[day + 1]} {teacher.name} took {hero.obj} back to the {place}. {teacher.Subj}"
            f" showed {hero.obj} how to {skill} slowly. "
            + self.pick(["They worked until it was dark.", f"{hero.name} tried ten times.", f"{hero.name} listened well."]),
            f"On {DAYS[day + 2]} {hero.name} {past} all by {hero.obj}self. Nobody laughed now."
            f" {teacher.name} was so {self.pick(GLAD)} that {teacher.subj} gave {hero.obj} the {prize}."
            f' "Now you can {skill} as well as I can," said {hero.poss} {relation}.',
        ]

    def rescued(self, hero):
        """A found animal gets a name, gets well and goes back to where it was found."""
        elder, place = self.pick(ELDERS), self.pick(list(SPOTS))
        spot = self.pick(SPOTS[place])
        foundling, name = self.pick(FOUNDLINGS), self.pick(PETS)
        hurt, cure = self.pick(list(HURTS.items()))
        box = f"{self.pick(COLOURS)} {self.pick(['box', 'basket', 'blanket', 'pillow'])}"
        return [
            f"{self.opening(hero)} One {self.pick(WEATHER)} morning {hero.name} walked to the {place}."
            f" There was a {foundling} {spot}. The poor {foundling} had {hurt}. "
            + self.pick([f'"I will take care of you," said {hero.name}.', f'"Do not be afraid," said {hero.name}.']),
            f"{hero.name} carried the {foundling} home to {elder} and put it on a {box}."
            f' "What does it need?" asked {hero.name}. "It has {hurt}, so it needs {cure}," said {elder}.'
            f" So {hero.subj} gave it {cure}. {hero.Subj} called the {foundling} {name}.",
            f"Every day {name} slept on the {box} and grew stronger. "
            + self.pick([f"Soon {name} was well again.", f"After a week {name} could play."])
            + f' "Now {name} must go home," said {elder}. {hero.name} was {self.pick(SAD)},'
            f" but {hero.subj} took {name} back to the {place}.",
            f"{hero.name} never forgot {name}. Whenever {hero.subj} came to the {place}, the {foundling}"
            f" sat {spot} and waited for {hero.obj}.",
        ]

    def shared(self, hero):
        """Two children want one thing, a grown-up makes them take turns by the day."""
        friend, elder = self.child(exclude=[hero.name]), self.pick(ELDERS)
        thing = f"{self.pick(COLOURS)} {self.pick(TREASURES)}"
        place = self.pick(list(SPOTS))
        day, other = self.pick(DAYS, 2)
        return [
            f"{self.opening(hero)} {hero.Subj} had a friend named {friend.name}."
            f" One {self.pick(WEATHER)} day they saw a {thing} near the {place}."
            f' "It is mine," said {hero.name}. "No, it is mine," said {friend.name}. '
            + self.pick(["They pulled and shouted.", "They were both very angry.", "Neither of them let go."]),
            f"{elder} came and took the {thing}. "
            f'"On {day} it is for {hero.name}, and on {other} it is for {friend.name}," said {elder}. '
            + self.pick([f"The two friends were {self.pick(SAD)} at first.", "The two friends nodded."]),
            f"On {day} {hero.name} played with the {thing}, and {friend.name} watched {hero.obj}."
            f" On {other} {friend.name} played with it, and {hero.name} watched {friend.obj}."
            f' "It is no fun alone," said {friend.name}. "Let us play together," said {hero.name}.',
            f"From then on {hero.name} and {friend.name} always shared the {thing}. "
            + self.pick([f"{elder} was {self.pick(GLAD)} and baked a cake for them.", f"{elder} smiled when they ran by."]),
        ]

    def errand(self, hero):
        """Three people are passed on the way out and, in reverse, on the way home."""
        elder, goal = self.pick(ELDERS), self.pick(list(SPOTS))
        parcel = f"{self.pick(COLOURS)} {self.pick(['letter', 'parcel', 'jug', 'basket'])}"
        people = self.pick(list(TRADES), 3)
        gifts = [TRADES[person] for person in people]
        return [
            f'{self.opening(hero)} "Please bring this {parcel} to the {goal}," said {elder}. '
            + self.pick([f"{hero.name} put on {hero.poss} shoes.", f"{hero.name} ran off at once."])
            + f" On the way {hero.subj} met a {people[0]}, then a {people[1]} and then a {people[2]}."
            f' "Where are you going, {hero.name}?" they asked.'
            f' "To the {goal} with the {parcel} from {elder}," said {hero.name}.',
            f"At the {goal} an old {self.pick(['man', 'woman', 'sailor', 'king', 'queen'])} took the {parcel}"
            f" and was {self.pick(GLAD)}."
            f" Then {hero.name} turned back. First {hero.subj} met the {people[2]} again, who gave {hero.obj} {gifts[2]}."
            f" Next the {people[1]} gave {hero.obj} {gifts[1]}. Near home the {people[0]} gave {hero.obj} {gifts[0]}.",
            f'"Look what I have," {hero.name} told {elder}. '
            f'"{gifts[2].capitalize()} from the {people[2]}, {gifts[1]} from the {people[1]}'
            f' and {gifts[0]} from the {people[0]}."'
            f" {elder} laughed. "
            + self.pick([f'"You are a good {hero.kind}, {hero.name}," said {elder}.', f'"Well done, {hero.name}," said {elder}.']),
        ]

    def present(self, hero):
        """A present is planned, two things are gathered in two places, and it is handed over."""
        friend, elder = self.child(exclude=[hero.name]), self.pick(ELDERS)
        present, (main, extra) = self.pick(list(PRESENTS.items()))
        first, second = self.pick(list(SPOTS), 2)
        colour, day = self.pick(COLOURS), self.pick(DAYS)
        return [
            f"{self.opening(hero)} {hero.poss.capitalize()} friend {friend.name} had a birthday on {day}."
            f" {hero.name} wanted to make {present} with a {colour} bow for {friend.obj}."
            f' "For that you need {main} and {extra}," said {elder}.',
            f"{hero.name} went to the {first} for the {main}. "
            + self.pick(["It was a long walk.", "The sun was hot.", f"A kind {self.pick(list(TRADES))} helped {hero.obj}."])
            + f" Then {hero.subj} went to the {second} for the {extra}."
            f" But {hero.subj} was so {self.pick(['tired', 'hungry', 'sleepy'])} that {hero.subj} left the {main} there."
            f' "Go back to the {second}," said {elder}. {hero.name} ran back to the {second} and found the {main}.',
            f"{hero.name} and {elder} worked all night."
            f" On {day} {hero.name} gave {friend.name} {present} with a {colour} bow."
            f' "{self.pick(["How lovely", "I like it so much", "What a surprise"])}!" said {friend.name}.'
            f' "Thank you, {hero.name}." {friend.Subj} was the most {self.pick(GLAD)} {friend.kind} in town.',
        ]


# ------------------------------------------------------------------------------------------
# 2. Tokenizer and training sequences
# ------------------------------------------------------------------------------------------

def train_tokenizer(seed, path, vocab_size):
    """Train a byte-fallback BPE SentencePiece model, set up the way Llama's own is.

    Paragraphs are fed one by one, so a line break is no piece and encodes as the byte <0x0A>.
    """
    stories = itertools.islice(Storyteller(seed).shelf(), 8000)
    with open(path, "wb") as model_file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain.from_iterable(stories), model_writer=model_file,
            model_type="bpe", vocab_size=vocab_size, byte_fallback=True, unk_id=UNK, bos_id=BOS, eos_id=EOS, pad_id=-1,
            normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
            character_coverage=1.0, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def training_sequences(seed, tokenizer, count, length):
    """[count, length] ids: BOS story EOS BOS story EOS ..., each row beginning with a story."""
    sequences = np.empty((count, length), dtype=np.int16)
    teller = Storyteller(seed)
    for row in sequences:
        ids = []
        for story in teller.shelf():
            ids += [BOS, *tokenizer.encode("\n".join(story)), EOS]
            if len(ids) >= length:
                break
        row[:] = ids[:length]
    return torch.from_numpy(sequences)


# ------------------------------------------------------------------------------------------
# 3. Model: Llama as llama2.c's run.c computes it
# ------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Config:
    """The checkpoint's header, in file order; vocab_size is negated there for an own classifier."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int
    shared_classifier: bool

    @property
    def head_size(self):
        return self.dim // self.n_heads


# hidden_dim 336 rather than the usual 8/3 * dim keeps checkpoint and tokenizer below 4,000,000 bytes.
STORIES = Config(dim=128, hidden_dim=336, n_layers=5, n_heads=8, n_kv_heads=2, vocab_size=512, seq_len=512,
                 shared_classifier=False)


def grouped_attention(q, k, v, **mask):
    """Query head h reads kv head h // group; q [batch, heads, time, size], k and v [batch, kv_heads, time, size]."""
    group = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), **mask)


def causal_attention(q, k, v):
    return grouped_attention(q, k, v, is_causal=True)


class Llama(nn.Module):
    """The weights as the file holds them (layers stacked) and the forward pass over whole sequences."""

    def __init__(self, config, attention=causal_attention):
        super().__init__()
        self.config, self.attention = config, attention
        c, kv_dim = config, config.n_kv_heads * config.head_size
        residual_std = 0.02 / math.sqrt(2 * c.n_layers)
        # Declared in file order: `save_checkpoint` and `load_checkpoint` walk `named_parameters`.
        self.token_embedding = weight(c.vocab_size, c.dim)
        self.rms_att = nn.Parameter(torch.ones(c.n_layers, c.dim))
        self.wq = weight(c.n_layers, c.dim, c.dim)
        self.wk = weight(c.n_layers, kv_dim, c.dim)
        self.wv = weight(c.n_layers, kv_dim, c.dim)
        self.wo = weight(c.n_layers, c.dim, c.dim, std=residual_std)
        self.rms_ffn = nn.Parameter(torch.ones(c.n_layers, c.dim))
        self.w1 = weight(c.n_layers, c.hidden_dim, c.dim)
        self.w2 = weight(c.n_layers, c.dim, c.hidden_dim, std=residual_std)
        self.w3 = weight(c.n_layers, c.hidden_dim, c.dim)
        self.rms_final = nn.Parameter(torch.ones(c.dim))
        self.wcls = self.token_embedding if c.shared_classifier else weight(c.vocab_size, c.dim)

        cos, sin = rotary_tables(config)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, ids):
        """Logits [batch, time, vocab] of ids [batch, time]."""
        x = F.embedding(ids, self.token_embedding)
        stacked = (self.rms_att, self.wq, self.wk, self.wv, self.wo, self.rms_ffn, self.w1, self.w2, self.w3)
        for rms_att, wq, wk, wv, wo, rms_ffn, w1, w2, w3 in zip(*(w.unbind() for w in stacked)):
            h = rms_norm(x, rms_att)
            q, k, v = (self.split_heads(F.linear(h, w)) for w in (wq, wk, wv))
            mixed = self.attention(self.rotate(q), self.rotate(k), v)
            x = x + F.linear(mixed.transpose(1, 2).flatten(2), wo)
            h = rms_norm(x, rms_ffn)
            x = x + F.linear(F.silu(F.linear(h, w1)) * F.linear(h, w3), w2)
        return F.linear(rms_norm(x, self.rms_final), self.wcls)

    def split_heads(self, x):
        """[batch, time, heads*size] -> [batch, heads, time, size]."""
        return x.unflatten(-1, (-1, self.config.head_size)).transpose(1, 2)

    def rotate(self, x):
        """Rotary embedding of the interleaved pairs (x[2i], x[2i+1])."""
        time_steps = x.shape[2]
        cos, sin = self.cos[:time_steps], self.sin[:time_steps]
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def weight(*shape, std=0.02):
    return nn.Parameter(torch.randn(shape) * std)


def rms_norm(x, gain):
    return F.rms_norm(x, gain.shape, gain, eps=1e-5)


def rotary_tables(config):
    """cos and sin [seq_len, head_size/2] of pos * 10000^(-2i/head_size), rounded from float64."""
    frequency = 10000.0 ** (-torch.arange(0, config.head_size, 2, dtype=torch.float64) / config.head_size)
    angle = torch.arange(config.seq_len, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


# ------------------------------------------------------------------------------------------
# 4. llama2.c "legacy" float32 checkpoints
# ------------------------------------------------------------------------------------------

HEADER = struct.Struct("<7i")


def file_tensors(model):
    """The checkpoint's float32 tensors in file order: weights, rotary tables, then an own classifier."""
    parameters = [p for name, p in model.named_parameters() if name != "wcls"]
    own_classifier = [] if model.config.shared_classifier else [model.wcls]
    return [*parameters, model.cos, model.sin, *own_classifier]


def save_checkpoint(model, path):
    c = model.config
    vocab_size = c.vocab_size if c.shared_classifier else -c.vocab_size
    header = HEADER.pack(c.dim, c.hidden_dim, c.n_layers, c.n_heads, c.n_kv_heads, vocab_size, c.seq_len)
    body = [t.detach().cpu().numpy().astype("<f4").tobytes() for t in file_tensors(model)]
    path.write_bytes(header + b"".join(body))


def load_checkpoint(path, attention=causal_attention):
    data = path.read_bytes()
    *sizes, vocab_size, seq_len = HEADER.unpack_from(data)
    model = Llama(Config(*sizes, abs(vocab_size), seq_len, shared_classifier=vocab_size > 0), attention)
    floats, offset = torch.from_numpy(np.frombuffer(data, "<f4", offset=HEADER.size).copy()), 0
    for tensor in file_tensors(model):
        tensor.data.copy_(floats[offset:offset + tensor.numel()].view_as(tensor))
        offset += tensor.numel()
    assert offset == floats.numel(), f"{path}: {floats.numel() - offset} floats left over"
    return model


# ------------------------------------------------------------------------------------------
# 5. Greedy decoding, golden ids and broken attention
# ------------------------------------------------------------------------------------------

@torch.no_grad()
def greedy(model, ids, length):
    """`ids` continued to `length` ids by the likeliest next token, EOS and BOS fed like any other."""
    device, ids = model.wcls.device, list(ids)
    while len(ids) < length:
        ids.append(model(torch.tensor([ids], device=device))[0, -1].argmax().item())
    return ids


@torch.no_grad()
def smallest_margin(model, ids, prompt_length):
    """Smallest lead of the stored id's logit over every other one, over all decoded positions.

    Negative if `ids` is not what this model decodes. A margin far above rounding error means that
    any correct engine finds the same ids, whatever order it sums in.
    """
    logits = model(torch.tensor([ids[:-1]], device=model.wcls.device))[0, prompt_length - 1:]
    chosen = torch.tensor(ids[prompt_length:], device=logits.device)[:, None]
    lead = logits.gather(1, chosen) - logits.scatter(1, chosen, -torch.inf).amax(1, keepdim=True)
    return lead.min().item()


def windowed_attention(window):
    """Attention that sees only the newest `window` keys."""
    def attention(q, k, v):
        time_steps = torch.arange(q.shape[2], device=q.device)
        age = time_steps[:, None] - time_steps
        return grouped_attention(q, k, v, attn_mask=(age >= 0) & (age < window))
    return attention


BROKEN_ATTENTION = {
    "outputs zero": lambda q, k, v: torch.zeros_like(q),
    "sees only its own key": windowed_attention(1),
    "sees only the newest 64 keys": windowed_attention(64),
    "averages all keys (scores lost)": lambda q, k, v: causal_attention(q * 0, k, v),
    "reads the wrong kv head (GQA grouping lost)": lambda q, k, v: causal_attention(q, k.flip(1), v.flip(1)),
    "softmax scale 1/head_size": lambda q, k, v: causal_attention(q / q.shape[-1] ** 0.5, k, v),
}


# ------------------------------------------------------------------------------------------
# Commands
# ------------------------------------------------------------------------------------------

def loss_of(model, batch):
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def mean_loss(model, sequences, batch_size):
    losses = [loss_of(model, batch) * len(batch) for batch in sequences.split(batch_size)]
    return (sum(losses) / len(sequences)).item()


def fit(model, sequences, held_out, minutes, batch_size, seed):
    """AdamW with warm-up and cosine decay; the schedule follows the clock, so it ends in `minutes`."""
    gains = [p for name, p in model.named_parameters() if name.startswith("rms")]
    matrices = [p for name, p in model.named_parameters() if not name.startswith("rms")]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=sequences.is_cuda)
    shuffle = torch.Generator(device=sequences.device).manual_seed(seed)
    start = time.monotonic()
    for step in itertools.count():
        progress = (time.monotonic() - start) / (60 * minutes)
        if progress >= 1:
            break
        rate = 3e-3 * min((step + 1) / 200, 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(sequences), (batch_size,), generator=shuffle, device=sequences.device)
        with torch.autocast(sequences.device.type, torch.bfloat16, enabled=sequences.is_cuda):
            loss = loss_of(model, sequences[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 500 == 0 or step in (100, 250):
            print(f"step {step:5d}  {time.monotonic() - start:5.0f} s  loss {loss.item():.4f}  "
                  f"held out {mean_loss(model, held_out, batch_size):.4f}", flush=True)
    print(f"done: {step} steps of {batch_size} x {sequences.shape[1] - 1} tokens, "
          f"held out {mean_loss(model, held_out, batch_size):.4f}", flush=True)


def train(args):
    """Corpus, tokenizer, training, export, golden ids."""
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / CHECKPOINT_NAME
    tokenizer = train_tokenizer(args.seed, stem.with_suffix(".model"), STORIES.vocab_size)
    began = time.monotonic()
    sequences = training_sequences(args.seed + 1, tokenizer, args.sequences, STORIES.seq_len + 1).to(device).long()
    held_out = training_sequences(args.seed + 2, tokenizer, args.batch, STORIES.seq_len + 1).to(device).long()
    model = Llama(STORIES).to(device)
    print(f"{device}: {sequences.numel():,} corpus tokens in {time.monotonic() - began:.0f} s, "
          f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)

    fit(model, sequences, held_out, args.minutes, args.batch, args.seed)
    save_checkpoint(model, stem.with_suffix(".bin"))

    model.double()
    for suffix, prompt in ((".golden_ids.txt", ""), (".prompt_golden_ids.txt", GOLDEN_PROMPT)):
        start = [BOS, *tokenizer.encode(prompt)]
        ids = greedy(model, start, STORIES.seq_len)
        stem.with_suffix(suffix).write_text(" ".join(map(str, ids)) + "\n")
        margin = smallest_margin(model, ids, len(start))
        print(f"\n{stem.name}{suffix}: {len(start)} ids given, smallest margin {margin:.2e}")
        print(tokenizer.decode(ids), flush=True)


def check(args):
    """Does plain greedy decoding reproduce the stored ids, and how clear is each decision?"""
    stored = [int(word) for word in args.ids.read_text().split()]
    model = load_checkpoint(args.checkpoint)
    decoded = greedy(model, stored[:args.prompt_length], len(stored))
    margins = [smallest_margin(m, stored, args.prompt_length) for m in (model, model.double())]
    print(f"{len(stored)} ids: {'reproduced' if decoded == stored else 'DIFFERENT'}, "
          f"smallest margin {margins[0]:.2e} in float32, {margins[1]:.2e} in float64")
    raise SystemExit(decoded != stored)


def ablate(args):
    """Held-out loss and greedy text of the checkpoint with correct and with broken attention."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(args.tokenizer))
    held_out = training_sequences(args.seed + 2, tokenizer, 16, STORIES.seq_len + 1).long()
    for name, attention in {"correct": causal_attention, **BROKEN_ATTENTION}.items():
        model = load_checkpoint(args.checkpoint, attention)
        text = tokenizer.decode(greedy(model, [BOS], 160))
        print(f"--- attention: {name}; held-out loss {mean_loss(model, held_out, 4):.3f}\n{text}\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=20)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("train", help=train.__doc__)
    command.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, tokenizer and ids")
    command.add_argument("--minutes", type=float, default=2.5, help="training time without corpus and export")
    command.add_argument("--sequences", type=int, default=40000, help="corpus size in sequences of seq_len + 1 tokens")
    command.add_argument("--batch", type=int, default=128, help="sequences per step")
    command.set_defaults(run=train)

    command = commands.add_parser("check", help=check.__doc__)
    command.add_argument("checkpoint", type=Path)
    command.add_argument("ids", type=Path)
    command.add_argument("--prompt-length", type=int, default=1, help="how many of the ids were given: 1 is BOS alone")
    command.set_defaults(run=check)

    command = commands.add_parser("ablate", help=ablate.__doc__)
    command.add_argument("checkpoint", type=Path)
    command.add_argument("tokenizer", type=Path)
    command.set_defaults(run=ablate)

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
