"""`chiasm bench`: how fast a brain is, and what it costs to have Chiasm in front of it.

The unit is the *wave*: so many streams begin at the same moment, against one *side* (the brain alone, or the brain
behind Chiasm), and the wave is over when all of them are.  Waves of both sides alternate within a round, and the order
turns from round to round, so that whatever else the machine does meets both alike; a ratio is made of the two waves of
one round and of nothing else.

Times count from the moment at which a stream was *due*, not from when the client came round to sending it.  A client
that measures from its own sending leaves out just those waits which a busy server causes (coordinated omission).  How
late the client itself was is measured beside, because a client that is too slow says nothing about the server.

*The first token* is the first event with text or reasoning; roles, comments and empty events are none.  A server may
put several tokens into one event, so tokens are counted by the server's usage and rates are made of usage and the time
between the first event and the last (`figures.py`).

What is planned (`plan.py`), how it is added up (`figures.py`) and drawn (`plot.py`) is pure.  What a run can cost is
known and printed before it begins: `Purse` lends every request its worst case and refuses what is beyond the bounds.
"""
