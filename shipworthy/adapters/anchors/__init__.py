"""Anchors that need no vendor: a file elsewhere, and a witness over HTTP with the server for it."""
