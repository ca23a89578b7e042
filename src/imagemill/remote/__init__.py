"""Calls over a network: how fast, how often again, within what limits, and what they may cost."""
