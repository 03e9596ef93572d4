"""Who may look when: the places of one pair of eyes, given to askers in turn."""

from __future__ import annotations

from tools.places import Places

WAITING_PER_PLACE = 8
"""Looks of one asker that may wait for each place: at some seconds a look, more would not be answered within the time
that a look may take.  Each holds its pictures in memory meanwhile."""


def places_for(places: int, askers: int) -> Places:
    """`askers`: how many there can be.  Where there are several, none of them gets the last quarter of the places, so
    that another who comes need not wait for a look of minutes to end."""
    reserved = max(1, places // 4) if askers > 1 else 0
    return Places(places, each=max(1, places - reserved), line=WAITING_PER_PLACE * places)
