"""Images that clients name by address instead of sending them."""
