"""What becomes of a request before it goes out: whose it is, its images, what is remembered of its conversation.

Begin with `preparation`.
"""
