"""Where pixels are decoded: in processes of their own, which can be lost.

A decoder is the one part of the way that hostile bytes run through in C.  So it runs where it can take nothing with it:
a worker process without environment, files, sockets or a second chance, with a bound on its memory and time.  The
parent sends a picture and the name of what is to be done, and gets back pixels or words; a worker that dies or takes
too long is replaced, and costs nobody but the picture that did it.

`pool` is what others use; `worker_process` one worker seen from outside; `worker` what runs inside, locked in by
`lockdown`; `frames` what goes over the pipes between them.
"""
