"""Endpoints: each module speaks one protocol and translates it to calls of the broker."""
