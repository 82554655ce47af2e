"""Small talk and questions the model cannot answer, written by hand, and its short honest answers."""

from __future__ import annotations

import random

REFUSAL = "I only know shell commands."

GREETINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Hello! Ask me how to do something in the shell.",
        (
            "hello",
            "hi",
            "Hi!",
            "hey",
            "Hello",
            "Hello!",
            "hi there",
            "good morning",
            "Good evening",
            "hey there",
            "yo",
        ),
    ),
    (
        "You are welcome.",
        (
            "thanks",
            "thank you",
            "Thanks!",
            "thank you very much",
            "thx",
            "great, thanks",
            "Thanks a lot!",
            "cool",
        ),
    ),
    ("Goodbye!", ("bye", "goodbye", "see you", "Bye!", "good night", "exit please", "see you later")),
    (
        "I am the built-in model of ADED Local. I know shell commands.",
        (
            "who are you?",
            "what are you?",
            "What is your name?",
            "who made you?",
            "are you an AI?",
            "introduce yourself",
            "are you ChatGPT?",
            "are you human?",
            "what model are you?",
            "Who are you",
        ),
    ),
    (
        "Ask me how to do something in the shell, or what a program does.",
        (
            "help",
            "what can you do?",
            "what can I ask?",
            "Help me",
            "how does this work?",
            "what do you know?",
            "What can you help me with?",
        ),
    ),
)

# {a}..: filled from FILLERS. The last of each pair of lists is held out for evaluation.
TEMPLATES = (
    "what is the capital of {country}?",
    "Who is the president of {country}?",
    "tell me about {country}",
    "how many people live in {country}?",
    "write a poem about {thing}",
    "Write me a short story about {thing}",
    "tell me a joke about {thing}",
    "tell me a joke",
    "what is {number} plus {number}?",
    "what is {number} times {number}?",
    "What is {number} / {number}?",
    "solve {number}x = {number}",
    "how do I cook {food}?",
    "give me a recipe for {food}",
    "what goes well with {food}?",
    "is {food} healthy?",
    "translate '{thing}' to {language}",
    "How do you say {thing} in {language}?",
    "what is the weather in {country}?",
    "what is the weather like today?",
    "who won the world cup in {country}?",
    "who wrote {work}?",
    "What is {work} about?",
    "when was {person} born?",
    "who was {person}?",
    "What did {person} discover?",
    "why is {thing} {colour}?",
    "what is the meaning of life?",
    "I feel {feeling}",
    "I am {feeling} today, what should I do?",
    "do you love me?",
    "do you have feelings?",
    "what is your favourite {thing}?",
    "Explain {science} to me",
    "what is {science}?",
    "how does {science} work?",
    "what are the news today?",
    "should I buy {thing}?",
    "how much does {thing} cost?",
    "recommend a {art}",
    "sing me a song about {thing}",
    "who is your favourite {art} maker?",
    "play some music",
    "how old are you?",
    "what should I wear today?",
    "how do I lose weight?",
    "Why do people {verb}?",
    "how do I learn to {verb}?",
    "is it good to {verb} every day?",
    "what is the fastest {animal}?",
    "how long does a {animal} live?",
    "what do {animal}s eat?",
    "draw a {animal}",
    "write an essay on {science}",
    "summarise {work}",
    "how far is the moon?",
    "what year is it in {country}?",
    "plan a trip to {country}",
    "what language do they speak in {country}?",
    "write a letter to my boss",
    "give me advice about {feeling} people",
    "what is love?",
    "Do you know {person}?",
)
HELD_OUT_TEMPLATES = (
    "what is the population of {country}?",
    "compose a haiku about {thing}",
    "how many legs does a {animal} have?",
    "what is the square root of {number}?",
    "who painted {work}?",
    "how do I bake {food}?",
    "why am I so {feeling}?",
    "who invented {science}?",
    "is {colour} a nice colour?",
    "what is the biggest city in {country}?",
    "teach me {language}",
    "can {animal}s swim?",
)
FILLERS: dict[str, tuple[str, ...]] = {
    "country": (
        "France",
        "Japan",
        "Brazil",
        "Germany",
        "India",
        "Peru",
        "Kenya",
        "Canada",
        "Italy",
        "Norway",
        "Egypt",
    ),
    "thing": (
        "the sea",
        "love",
        "a cat",
        "the moon",
        "a car",
        "winter",
        "a house",
        "the sky",
        "a phone",
        "coffee",
    ),
    "number": ("2", "3", "7", "12", "15", "25", "100", "81", "64", "9"),
    "food": ("pasta", "a cake", "rice", "bread", "soup", "pancakes", "an omelette", "pizza", "chicken curry"),
    "language": ("French", "Spanish", "German", "Japanese", "Italian", "Latin", "Arabic"),
    "work": ("Hamlet", "War and Peace", "the Odyssey", "Faust", "Don Quixote", "the Mona Lisa", "Moby Dick"),
    "person": ("Einstein", "Napoleon", "Marie Curie", "Mozart", "Cleopatra", "Newton", "Ada Lovelace"),
    "colour": ("blue", "green", "red", "yellow", "black", "white"),
    "feeling": ("sad", "happy", "tired", "angry", "lonely", "bored", "nervous"),
    "science": (
        "gravity",
        "photosynthesis",
        "evolution",
        "quantum physics",
        "electricity",
        "inflation",
        "democracy",
    ),
    "art": ("movie", "book", "song", "painting", "game", "series"),
    "verb": ("swim", "dance", "sleep", "sing", "paint", "dream", "cook", "play chess"),
    "animal": ("dog", "cat", "horse", "elephant", "bird", "whale", "cheetah", "turtle"),
}


def _fill(rng: random.Random, template: str) -> str:
    for word, choices in FILLERS.items():
        while "{" + word + "}" in template:
            template = template.replace("{" + word + "}", rng.choice(choices), 1)
    return template


def small_talk(rng: random.Random) -> tuple[str, str]:
    """A training (question, answer): one in three a greeting, else a question met by the refusal."""
    if rng.random() < 1 / 3:
        answer, questions = rng.choice(GREETINGS)
        return rng.choice(questions), answer
    question = _fill(rng, rng.choice(TEMPLATES))
    if rng.random() < 0.3:
        question = question.lower().rstrip("?.")
    return question, REFUSAL


def unseen_off_topic(rng: random.Random) -> str:
    """An evaluation question that no training template makes."""
    return _fill(rng, rng.choice(HELD_OUT_TEMPLATES))
