"""aded-bench: measure speculative decoding honestly, on any device, beside its peers.

main.py, options.py, commands/   the command line; heavy imports stay inside the commands
curve.py      what a pass over n tokens costs, and which sizes are exact
replay/       recorded answers against drafters: modelled on curves, or every tree really decoded
run/          end to end on a model: speed beside peers, and whether the tokens are the same
report/       result files as Markdown, charts and one page
body/         a small model put into a body of realistic size
schema.py     what result files hold
results.py    result files: where a number came from (versions, hashes, seeds), saved as the run goes
summary.py    medians, quartiles and bootstrap intervals
tables.py, progress.py   what a person sees meanwhile and at the end
"""

__version__ = "0.1.0"
