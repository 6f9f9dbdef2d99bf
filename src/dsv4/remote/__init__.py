"""What runs elsewhere: engines behind a front, and a dialogue with a server."""
