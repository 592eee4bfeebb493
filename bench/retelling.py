"""A data set that is made: many people's news in a long conversation, said in one way and asked in others.

Every piece of news has a subject, a topic and a detail. Each topic has three ways to be told and three to be asked;
most pairs share a name and little else. The same topics are told of other people, and other news of the same, so that a
question's words alone fit many episodes.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

_NAMES = """Amara Bruno Chloe Dmitri Elena Farid Greta Hugo Ines Jonas Kavya Liam Maren Nils Olga Pablo Quinn Rosa Samir
Tilda Umar Vera Wanda Xavier Yusuf Zita Anouk Bela Cyrus Delia"""
NAMES = _NAMES.split()

TOPICS: list[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = [
    # name, told, asked, details
    (
        "job",
        (
            "{n} has started a new job as a {d}.",
            "Since Monday {n} works as a {d}, and likes it.",
            "They hired {n} as a {d} in the end.",
        ),
        ("What new job has {n} started?", "What does {n} work as now?", "What is {n}'s profession?"),
        ("librarian", "welder", "midwife", "tram driver", "beekeeper", "notary", "luthier", "radiographer"),
    ),
    (
        "move",
        (
            "{n} moved to {d} last month.",
            "{n} has rented a flat in {d} and is unpacking boxes.",
            "{n} packed everything and left for {d}.",
        ),
        (
            "Where did {n} move to?",
            "In which place has {n} rented a flat?",
            "Which town is {n} living in these days?",
        ),
        ("Ghent", "Porto", "Tartu", "Aarhus", "Lecce", "Graz", "Malmö", "Nantes"),
    ),
    (
        "allergy",
        (
            "{n} is allergic to {d}.",
            "{n} came out in a rash after eating {d}.",
            "The doctor told {n} to keep away from {d}.",
        ),
        (
            "What is {n} allergic to?",
            "What gave {n} a rash?",
            "Which food must I not serve when {n} is a guest?",
        ),
        ("walnuts", "shellfish", "sesame", "celery", "mustard", "peaches", "lupin", "oysters"),
    ),
    (
        "pet",
        (
            "{n} got a pet, a {d}.",
            "{n} adopted a {d} from the shelter.",
            "A {d} now sleeps at the foot of {n}'s bed.",
        ),
        ("What pet did {n} get?", "What did {n} adopt from the shelter?", "Which animal does {n} own?"),
        ("greyhound", "tortoise", "cockatiel", "ferret", "beagle", "tabby", "gecko", "hedgehog"),
    ),
    (
        "hobby",
        (
            "{n} took up {d} this spring.",
            "Every Saturday {n} goes to a class in {d}.",
            "{n} cannot stop talking about {d} lately.",
        ),
        (
            "What did {n} take up this spring?",
            "Which class does {n} go to on Saturdays?",
            "How does {n} spend free time?",
        ),
        ("fencing", "pottery", "birdwatching", "calligraphy", "bouldering", "chess", "weaving", "rowing"),
    ),
    (
        "repair",
        (
            "{n} paid {d} euros to repair the car.",
            "The garage charged {n} {d} euros for the gearbox.",
            "{n}'s vehicle cost {d} euros to put right.",
        ),
        (
            "How much did {n} pay to repair the car?",
            "What did the garage charge {n}?",
            "How expensive was it to fix {n}'s automobile?",
        ),
        ("340", "1,150", "480", "2,075", "615", "890", "1,720", "265"),
    ),
    (
        "illness",
        (
            "{n} is ill with {d}.",
            "{n} has been off sick with {d} since Tuesday.",
            "They kept {n} in hospital because of {d}.",
        ),
        ("What is {n} ill with?", "Why has {n} been off sick?", "What health trouble does {n} have?"),
        (
            "pneumonia",
            "shingles",
            "appendicitis",
            "measles",
            "a slipped disc",
            "migraine",
            "glandular fever",
            "gout",
        ),
    ),
    (
        "wedding",
        (
            "{n} is getting married in {d}.",
            "The wedding of {n} is set for {d}.",
            "{n} said yes, and the ceremony is in {d}.",
        ),
        (
            "When is {n} getting married?",
            "For when is {n}'s wedding set?",
            "In what month does {n} tie the knot?",
        ),
        ("May", "October", "June", "September", "April", "August", "December", "March"),
    ),
]

CHAT = (
    "Could you make a list of that for me?",
    "The weather has been dreadful, so I stayed in.",
    "I have no idea what to cook tonight.",
    "Please remind me to call the plumber.",
    "Half of the meeting was about the printer again.",
    "I read until two and regret it.",
)
ANSWERS = (
    "Noted. Is there more to it?",
    "I will remember that.",
    "How are you taking it?",
    "Good to know, thank you.",
)


def retold(episodes: int, seed: int = 6) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """About so many episodes, and a question for each piece of news in them: the same each time."""
    draw = random.Random(seed)
    news = [(name, topic) for name in NAMES for topic in TOPICS]
    draw.shuffle(news)
    said: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    now = datetime(2026, 1, 5, 8, tzinfo=UTC)

    def say(role: str, text: str) -> str:
        nonlocal now
        now += timedelta(minutes=draw.randint(1, 9))
        name = f"r{len(said):05d}"
        said.append({"id": name, "role": role, "text": text, "at": now.isoformat()})
        return name

    quiet = max(0, episodes // len(news) - 1)
    for name, (_, ways, questions, details) in news[: episodes // 2]:
        evidence = say("user", draw.choice(ways).format(n=name, d=draw.choice(details)))
        asked.append({"question": draw.choice(questions).format(n=name), "evidence": [evidence]})
        for _ in range(quiet):
            say(*draw.choice([("assistant", draw.choice(ANSWERS)), ("user", draw.choice(CHAT))]))
        now += timedelta(hours=draw.randint(1, 30))
    return said, asked
