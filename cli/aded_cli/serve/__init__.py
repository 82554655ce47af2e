"""aded-serve: one model behind OpenAI's HTTP interface (docs/serve.md)."""
