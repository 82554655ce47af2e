"""A draft model's time and branches: simulated on recorded statements, and measured."""
