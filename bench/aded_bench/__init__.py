"""aded-bench: measure speculative decoding honestly, on any device.

main.py        the command line; heavy imports stay inside the commands
body.py        a small model put into a body of realistic size (the shapes, the placement, the file)
source.py      the small model: its GGUF read and checked
prompts.py     the built-in suite of prompts, written for the built-in model
tasks.py       the everyday tasks and program names the suite is made from
arms.py        one way of generating: our engine with a draft preset, or `llama_cpp.Llama` beside it
lossless.py    do all ways write the same tokens, and if not, how close were the two candidates
speed.py       how fast is each way, prompt by prompt, in one interleaved run
summary.py     medians, quartiles and bootstrap intervals
results.py     result files: where a number came from (versions, hashes, seeds), saved as the run goes
"""

__version__ = "0.1.0"
