"""The routes of the server, by kind of answer."""
