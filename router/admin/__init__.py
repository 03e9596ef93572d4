"""The image table from outside: who may see and change it, what can be asked and done, and how that looks in HTTP.

auth       who asks: the admin's key, a browser that has signed in with it, or this machine
door       every address of the room: auth, errors, and the headers of every answer
api        the addresses, each with what it takes and gives (`models`, `openapi`)
service    what can be asked and done, without HTTP
listing    pages of long lists, bounded in what one request costs
events     what changes, told to those who listen
audit      who did what
terminal   the same table for `chiasm images`
"""
