"""Classification of sentences made from templates: opinion, feeling, intent, topic, grammar."""

from __future__ import annotations

from .drawing import facts, templated, words

PRESENT_TO_PAST = facts()["present to past"]
PEOPLE = {"person": words("family", "artists", "health workers", "shop and food workers")}
# Verbs that go with a person as their object.
TRANSITIVE = "see find know tell teach catch meet lose hear help call ask love visit follow thank watch push".split()
PAST = {verb: PRESENT_TO_PAST[verb] for verb in TRANSITIVE}

OPINIONS = [
    templated(
        "reviews-positive-or-negative",
        "reviews",
        "Say whether the review is positive or negative.",
        {
            "positive": (
                "this {thing} is {good}",
                "a {good} {thing} , i am glad i bought it",
                "{name} finds the {thing} {good}",
                "i would buy this {thing} again",
                "the {thing} works very well",
                "nothing is wrong with the {thing}",
                "not bad at all , a {good} {thing}",
                "my {relative} loves the {thing}",
            ),
            "negative": (
                "this {thing} is {bad}",
                "a {bad} {thing} , i am sorry i bought it",
                "{name} finds the {thing} {bad}",
                "i would never buy this {thing} again",
                "the {thing} does not work",
                "the {thing} was broken after a {time}",
                "not good at all , a {bad} {thing}",
                "my {relative} hates the {thing}",
            ),
        },
        {"time": ("day", "week", "month")},
    ),
    templated(
        "reviews-foo",
        "reviews",
        "Answer foo if the traveller would go back to the place and bar if not.",
        {
            "foo": (
                "{city} was {good}",
                "the {building} in {city} is {good}",
                "we want to see {city} again",
                "{name} had a {good} day in {city}",
                "everyone in {city} was friendly",
                "you must see the {building} in {city}",
                "i loved {city}",
                "the people at the {building} were {good}",
            ),
            "bar": (
                "{city} was {bad}",
                "the {building} in {city} is {bad}",
                "we never want to see {city} again",
                "{name} had a {bad} day in {city}",
                "everyone in {city} was rude",
                "do not go to the {building} in {city}",
                "i hated {city}",
                "the people at the {building} were {bad}",
            ),
        },
    ),
    templated(
        "food-review",
        "food",
        "Say whether the guest liked the meal.",
        {
            "liked": (
                "the {food} was {good}",
                "{good} {food} and a {good2} {drink}",
                "{name} ate all of the {food}",
                "we will come again for the {food}",
                "the cook makes {good} {food}",
                "i never had better {food}",
                "the {food} was fresh and hot",
                "more of this {good} {drink} , please",
            ),
            "disliked": (
                "the {food} was {bad}",
                "{bad} {food} and a {bad2} {drink}",
                "{name} left the {food} on the plate",
                "we will not come again for the {food}",
                "the cook makes {bad} {food}",
                "i never had worse {food}",
                "the {food} was old and cold",
                "take this {bad} {drink} away",
            ),
        },
    ),
    templated(
        "music-wug",
        "music",
        "Answer wug if the listener liked the concert and fep if not.",
        {
            "wug": (
                "the {instrument} sounded {good}",
                "a {good} evening of {style}",
                "{name} plays the {instrument} very well",
                "we danced all night to the {style}",
                "i could hear this {instrument} for hours",
                "the {style} band was {good}",
                "{name} sang like an angel",
                "everyone loved the {style}",
            ),
            "fep": (
                "the {instrument} sounded {bad}",
                "a {bad} evening of {style}",
                "{name} plays the {instrument} very badly",
                "we went home during the {style}",
                "i could not hear this {instrument} any longer",
                "the {style} band was {bad}",
                "{name} sang like a crow",
                "everyone hated the {style}",
            ),
        },
    ),
    templated(
        "feelings-emotions",
        "feelings",
        "Say what the person feels.",
        {
            "joy": (
                "{name} smiled at the {person}",
                "{name} won a {thing} and danced",
                "what a wonderful day for {name}",
                "{name} laughed with the {person}",
                "at last {name} met the {person} again",
                "{name} got the {thing} as a gift",
            ),
            "anger": (
                "{name} shouted at the {person}",
                "{name} threw the {thing} at the wall",
                "how dare the {person} take the {thing}",
                "{name} kicked the {thing}",
                "{name} slammed the door on the {person}",
                "the {person} lied to {name} again",
            ),
            "fear": (
                "{name} hid from the {person}",
                "{name} heard steps in the dark {room}",
                "{name} ran away from the {person}",
                "{name} did not dare to open the {room}",
                "the {person} made {name} shake",
                "{name} screamed in the dark {room}",
            ),
            "sadness": (
                "{name} cried for the {person}",
                "{name} misses the {person}",
                "the {thing} of {name} is lost for ever",
                "{name} said goodbye to the {person}",
                "{name} sat alone in the {room} and wept",
                "the {person} of {name} died",
            ),
        },
        PEOPLE,
    ),
    templated(
        "animals-danger",
        "animals",
        "Say whether the animal is a danger now.",
        {
            "safe": (
                "the {animal} is sleeping",
                "a {animal} behind a strong fence",
                "{name} plays with the {animal}",
                "the {animal} is far away",
                "the {animal} is a picture on the wall",
                "{name} feeds the old {animal}",
                "the {animal} eats from the hand",
                "the {animal} likes {name}",
            ),
            "danger": (
                "the {animal} is attacking",
                "a {animal} has broken the fence",
                "{name} runs from the {animal}",
                "the {animal} is coming closer",
                "the {animal} wants to bite",
                "{name} made the {animal} angry",
                "the {animal} bit the hand",
                "the {animal} hurt {name}",
            ),
        },
    ),
]
MESSAGES = [
    templated(
        "messages-intent",
        "messages",
        "Say what the message does.",
        {
            "greet": (
                "hello {name}",
                "good morning {name} and {name2}",
                "hi {name} , how are you",
                "welcome to {city} , {name}",
                "nice to meet you , {name}",
            ),
            "thank": (
                "thanks for the {thing} , {name}",
                "{name} , thank you very much",
                "i am grateful for the {thing}",
                "many thanks to {name} and {name2}",
                "you helped me a lot , {name}",
            ),
            "ask": (
                "where is the {thing} , {name}",
                "when does {name} come to {city}",
                "who has my {thing}",
                "do you know {name}",
                "how much is the {thing}",
            ),
            "refuse": (
                "no , {name} , i can not come",
                "i will not sell the {thing}",
                "sorry {name} , not today",
                "i do not want the {thing}",
                "never , said {name} to {name2}",
            ),
        },
    ),
    templated(
        "messages-spam",
        "messages",
        "Say whether the message is spam.",
        {
            "spam": (
                "win a free {thing} today",
                "you have won {number} {thing} , click here",
                "buy one {thing} and get {number} free",
                "cheap {garment} , only today",
                "dear friend , send me your {money}",
                "click now for a free {garment}",
                "last chance to win {number} dollars and a {thing}",
                "lose weight with this {thing} , order now",
            ),
            "normal": (
                "i left my {thing} at your house",
                "see you at {number} , {name}",
                "{name} needs the {thing} back",
                "can you bring the {garment} tomorrow",
                "dear {name} , the {event} was lovely",
                "your {garment} is in the {room}",
                "we meet {name} on {day}",
                "i will call you on {day} , {name}",
            ),
        },
    ),
    templated(
        "messages-polite-or-rude",
        "messages",
        "Say whether the speaker is polite or rude.",
        {
            "polite": (
                "could you please bring the {thing}",
                "may i have the {thing} , please",
                "would you mind if i took the {thing}",
                "thank you for the {thing} , {name}",
                "excuse me , is this your {thing}",
                "i am sorry about the {thing} , {name}",
                "please sit down , {name}",
                "after you , dear {name}",
            ),
            "rude": (
                "bring the {thing} , you fool",
                "give me the {thing} or else",
                "i take the {thing} and you shut up",
                "your {thing} is as stupid as {name}",
                "hands off the {thing} , idiot",
                "who cares about your {thing} , {name}",
                "sit down , stupid {name}",
                "get out of my way , {name}",
            ),
        },
        train=120,
    ),
    templated(
        "messages-dax",
        "messages",
        "Answer dax if the message is urgent and blick if it can wait.",
        {
            "dax": (
                "help , the {room} is on fire",
                "call a doctor for {name} at once",
                "come to the {place} right now",
                "{name} needs the {thing} this minute",
                "quick , the {place} closes in a minute",
                "hurry , {name} is hurt",
                "stop everything and bring the {thing}",
                "i need an answer now , {name}",
            ),
            "blick": (
                "no hurry with the {thing}",
                "call {name} when you have time",
                "come to the {place} some day",
                "{name} can wait for the {thing}",
                "the {place} is open all week",
                "take your time , {name}",
                "we can talk about the {thing} next month",
                "answer me when you like , {name}",
            ),
        },
    ),
    templated(
        "news-topics",
        "news",
        "Say what the headline is about.",
        {
            "sport": ("{country} wins the {sport} final", "{name} breaks {sport} record", "fans of {sport} in {city}"),
            "politics": (
                "president of {country} visits {city}",
                "{name} elected mayor of {city}",
                "{country} votes on a new law",
            ),
            "weather": ("heavy rain in {city}", "storm reaches {country} on {day}", "snow and frost in {country}"),
            "money": (
                "prices rise in {country}",
                "bank in {city} cuts {money}",
                "{country} sells more {vehicle} parts",
            ),
        },
    ),
]
GRAMMAR = [
    templated(
        "grammar-tense",
        "grammar",
        "Say whether the sentence is about the past, the present or the future.",
        {
            "past": (
                "{name} {past} {name2}",
                "yesterday the {job} {past} {name}",
                "who {past} the {job} ?",
                "the {job} {past} us",
            ),
            "present": (
                "i {verb} {name} now",
                "they {verb} the {job}",
                "do you {verb} {name} ?",
                "we {verb} the {job} every {day}",
            ),
            "future": (
                "{name} will {verb} {name2}",
                "tomorrow they will {verb} the {job}",
                "who will {verb} {name} ?",
                "{name} is going to {verb} the {job}",
            ),
        },
        {"verb": tuple(PAST), "past": tuple(PAST.values())},
    ),
    templated(
        "grammar-one-or-many",
        "grammar",
        "Say whether the sentence is about one thing or many.",
        {
            "one": (
                "the {one} is here",
                "{name} has a new {one}",
                "this {one} was cheap",
                "where is my {one} ?",
                "{name} lost every {one}",
            ),
            "many": (
                "the {many} are here",
                "{name} has new {many}",
                "these {many} were cheap",
                "where are my {many} ?",
                "{name} lost all {many}",
            ),
        },
        {
            "one": tuple(facts()["singular to plural"]),
            "many": tuple(facts()["singular to plural"].values()),
        },
    ),
    templated(
        "grammar-sentence-types",
        "grammar",
        "Say whether it is a statement, a question or a command.",
        {
            "statement": ("{name} has the {thing}", "the {thing} is in the {room}", "i can see the {thing}"),
            "question": ("has {name} the {thing}", "is the {thing} in the {room}", "can you see the {thing}"),
            "command": ("take the {thing} , {name}", "put the {thing} in the {room}", "look at the {thing}"),
        },
    ),
    templated(
        "grammar-foo",
        "grammar",
        "Answer foo if the sentence says no and bar if it says yes.",
        {
            "foo": (
                "{name} does not {verb} {name2}",
                "nobody can {verb} the {job}",
                "the {job} will never {verb} {name}",
                "they did not {verb} us",
                "there is no {job} to {verb}",
            ),
            "bar": (
                "{name} does {verb} {name2}",
                "everybody can {verb} the {job}",
                "the {job} will always {verb} {name}",
                "they did {verb} us",
                "there is a {job} to {verb}",
            ),
        },
        {"verb": tuple(PAST)},
    ),
    templated(
        "grammar-speaker",
        "grammar",
        "Say whom the sentence is about: the speaker, the listener or others.",
        {
            "speaker": ("i like the {thing}", "my {thing} is {colour}", "give me the {thing}", "i went to the {place}"),
            "listener": (
                "you like the {thing}",
                "your {thing} is {colour}",
                "{name} gives you the {thing}",
                "did you go to the {place} ?",
            ),
            "others": (
                "they like the {thing}",
                "her {thing} is {colour}",
                "give him the {thing}",
                "{name} went to the {place}",
            ),
        },
    ),
]
DAILY_LIFE = [
    templated(
        "home-commands",
        "home",
        "Say what the command to the house is about.",
        {
            "light": (
                "it is too dark in the {room}",
                "{name} wants the lamp on in the {room}",
                "make the {room} brighter for {name}",
                "{name} can not see the {thing} in the {room}",
            ),
            "heat": (
                "it is too cold in the {room}",
                "{name} wants the heater on in the {room}",
                "make the {room} warmer for {name}",
                "{name} is freezing in the {room}",
            ),
            "clean": (
                "it is too dirty in the {room}",
                "{name} wants the floor washed in the {room}",
                "make the {room} cleaner for {name}",
                "there is dust on the {thing} in the {room}",
            ),
        },
    ),
    templated(
        "transport-late",
        "transport",
        "Say whether the passengers come late or in time.",
        {
            "late": (
                "the {vehicle} to {city} broke down",
                "{name} missed the {vehicle} to {city}",
                "the {vehicle} left without {name}",
                "long wait for the {vehicle} to {city}",
                "the road to {city} is closed",
            ),
            "intime": (
                "the {vehicle} to {city} runs well",
                "{name} caught the {vehicle} to {city}",
                "the {vehicle} left with {name}",
                "no wait for the {vehicle} to {city}",
                "the road to {city} is free",
            ),
        },
    ),
    templated(
        "sport-results",
        "sport",
        "Say whether the person won or lost.",
        {
            "won": (
                "{name} came first in {sport}",
                "{name} beat {name2} in {sport}",
                "gold for {name} in {sport}",
                "nobody was better at {sport} than {name}",
                "{name} is the new champion of {sport}",
            ),
            "lost": (
                "{name} came last in {sport}",
                "{name} fell and left the {sport} match",
                "no medal for {name} in {sport}",
                "everybody was better at {sport} than {name}",
                "{name} is out of the {sport} final",
            ),
        },
    ),
    templated(
        "school-who-speaks",
        "school",
        "Say whether a teacher or a pupil speaks.",
        {
            "teacher": (
                "open your books , we begin with {subject}",
                "{name} , show me your {subject} homework",
                "i will give you a test in {subject}",
                "well done in {subject} , {name}",
                "be quiet in my {subject} lesson",
            ),
            "pupil": (
                "i forgot my {subject} book",
                "{name} , can i copy your {subject} homework",
                "i am afraid of the test in {subject}",
                "our {subject} teacher is strict , {name}",
                "i fell asleep in the {subject} lesson",
            ),
        },
        train=120,
    ),
    templated(
        "food-orders",
        "food",
        "Say whether the guest orders, pays or complains.",
        {
            "order": ("i would like the {food}", "one {food} and a {drink} , please", "{name} takes the {food}"),
            "pay": ("the bill for the {food} , please", "how much do i owe for the {drink}", "i pay for the {food}"),
            "complain": ("there is a hair in my {food}", "the {drink} is warm", "i did not ask for {food}"),
        },
    ),
    templated(
        "time-seasons",
        "time",
        "Say in which season it is.",
        {
            "winter": (
                "{name} skates on the frozen lake",
                "{name} and {name2} built a snowman",
                "{name} needs a scarf for the snow",
                "the {job} clears ice from the {vehicle}",
                "snow lies on the {place}",
            ),
            "summer": (
                "{name} swims in the warm sea",
                "{name} and {name2} lie in the hot sun",
                "{name} needs a hat against the sun",
                "it is too hot in the {vehicle} for the {job}",
                "the {place} is closed because of the heat",
            ),
        },
    ),
    templated(
        "work-foo",
        "work",
        "Answer foo if the person has work and bar if not.",
        {
            "foo": (
                "{name} got the job as {job}",
                "the {job} starts at {number} every {day}",
                "{name} is a busy {job}",
                "they pay {name} well as a {job}",
                "{name} works with the {job}",
            ),
            "bar": (
                "{name} lost the job as {job}",
                "the {job} was sent home on {day}",
                "{name} was a {job} once",
                "nobody pays {name} as a {job} any more",
                "{name} looks for work as a {job}",
            ),
        },
    ),
]

SENTENCE_TASKS = [*OPINIONS, *MESSAGES, *GRAMMAR, *DAILY_LIFE]
