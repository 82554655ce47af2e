"""How the built-in model is made: corpus, tokenizer, training, export, evaluation.

Everything in one command: `python -m aded_models.train`.
"""
