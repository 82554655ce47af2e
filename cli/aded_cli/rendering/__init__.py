"""An answer's Markdown on a terminal while it streams.

Text that is finished is written once and never again. What may still change is a line of the source at most, or a
table: ``live`` rewrites of it what differs, in one write. The way of a piece: ``markdown`` finds out which kind of line
it belongs to, ``inline`` what is emphasised in it, ``flow`` breaks it between words, ``live`` writes the difference.
"""
