"""Killers and full disks."""
