"""The mount's web app, its page in a browser, and the command that asks them."""
