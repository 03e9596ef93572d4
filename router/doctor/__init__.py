"""`chiasm doctor`: asks brain, eyes and the whole path what Chiasm will need of them, and says what to change.

Three things are kept apart.  A *check* is data: its name, what must be well before it makes sense, how it is asked and
how it is judged.  *Asking* (`probe.py`, and the `ask` functions in `brain.py`, `eyes.py`, `path.py`) goes over HTTP and
brings back what was heard, as it was, with the times at which it came; it judges nothing.  *Judging* (`judge_*.py`) is
pure: what was heard becomes a verdict, with what was seen in words and the change to make.

A check that fails stops those that need it and no others.  Every request has a time limit and a token limit, and is
only made while the budget has room for its worst case (`budget.py`), so what a run can cost is known before it begins.

What a server says is shown as its words, cleaned of keys, of long base64 and of what a terminal could take for a
command.
"""
